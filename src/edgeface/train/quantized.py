"""Learning on with rounded values, so that a network's weights make up for what int8 takes.

It learns what it said in float32, not labels: from those, 32 steps on 250 images at 160x120 moved an rfb320 three
times as far from float32 as rounding had (.0078 instead of .0025 in scores), and took as much AP from it when
it was not rounded at all (.4192 to .4157). A run ends with small steps and averages its weights, which a few of
this size undo.

"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (arXiv 1712.05877,
section 3): the forward pass rounds weights and values as the engine does, BatchNorm is folded, and gradients
pass as if nothing were rounded but what is clipped. Ranges stay as they were calibrated.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import DataError, ModelError
from ..graph import Add, Concat, Conv, LeakyRelu, Relu, Reshape, Transpose, Upsample
from ..quantization.observing import STORED_LIMIT
from ..quantization.rounding import rounded_graph
from .batches import Order, batches
from .blocks import Heads
from .loss import distillation_loss, landmark_distillation_loss
from .pictures import draw
from .schedule import Progress, learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ..graph import Graph, Node
    from ..quantization import Calibrated, Rounding
    from .config import Config
    from .pictures import Pictures
    from .samples import Sample

# Of Adam at its start. 96 steps of 1e-5, 3e-5 and 1e-4 took the divergence of scores from .0021 to .0017, .0016 and
# .0016, 32 of 3e-4 to .0024.
RATE = 3e-5
_MOMENTS = (0.9, 0.99)
_AVERAGE = 0.9  # how much of the averaged constants stays each step


class RoundedNetwork(nn.Module):
    """A calibrated network whose constants learn, in int8 or, without `rounds`, in float32.

    Args:
        calibrated: Its scores are logits, two a prior.
        rounding: How it is rounded. Where that corrects biases, they begin corrected.
        rounds: Whether it does, or computes in float32 with the biases that are in the graph.

    Raises:
        ModelError: It has an operator that is not trained here, or other scores.
    """

    def __init__(self, calibrated: Calibrated, rounding: Rounding, *, rounds: bool = True) -> None:
        super().__init__()
        graph, heads = calibrated.graph, calibrated.spec.heads
        _check(graph)
        if heads.activation != "softmax" or graph.tensors[heads.scores].shape[-1] != 2:
            raise ModelError("learning in int8 needs scores that are two logits a prior")
        self.rounds = rounds
        self.spec = calibrated.spec
        self._graph = graph
        self._steps = {name: limit / STORED_LIMIT for name, limit in calibrated.ranges.items()}
        self._scale_steps = rounding.scale_steps
        self._number = {tensor.name: index for index, tensor in enumerate(graph.constants)}
        biases = _corrected(calibrated, rounding) if rounds and rounding.correct_biases else {}
        self.constants = nn.ParameterList(
            torch.tensor(biases.get(tensor.name, tensor.data)) for tensor in graph.constants
        )

    def forward(self, image: Tensor) -> Heads:
        """(N, 3, height, width) float32, (pixel - mean) * scale -> Heads."""
        graph, heads = self._graph, self.spec.heads
        values = {graph.input: self._rounded(graph.input, image)}
        for node in graph.nodes:
            made = self._made(node, [values[name] for name in node.inputs if name in values])
            values[node.output] = made
        landmarks = None if heads.landmarks is None else values[heads.landmarks]
        return Heads(values[heads.scores], values[heads.boxes], landmarks)

    def learnt(self) -> Graph:
        """The float32 network with what the constants are now."""
        graph = self._graph
        tensors = dict(graph.tensors)
        for name, number in self._number.items():
            data = self.constants[number].detach().cpu().numpy().copy()
            tensors[name] = dataclasses.replace(tensors[name], data=data)
        return dataclasses.replace(graph, tensors=tensors)

    def _made(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        op = node.op
        if isinstance(op, Conv):
            made = _activated(self._convolved(op, node, inputs[0]), op)
        elif isinstance(op, Add):
            made = _activated(inputs[0] + inputs[1], op)
        elif isinstance(op, LeakyRelu):
            made = functional.leaky_relu(inputs[0], op.slope)
        else:
            return _PASSED_ON[type(op)](op, inputs)
        return self._rounded(node.output, made)

    def _convolved(self, op: Conv, node: Node, data: Tensor) -> Tensor:
        weight, bias = (self.constants[self._number[name]] for name in node.inputs[1:])
        if self.rounds:
            step = weight_steps(weight.detach(), self._scale_steps)
            weight = rounded(weight, step[:, None, None, None])
            units = step * self._steps[node.inputs[0]]
            bias = bias + ((bias / units).round() * units - bias).detach()
        top, left, bottom, right = op.pads
        if (top, left) == (bottom, right):
            pads: tuple[int, int] = (top, left)
        else:
            data, pads = functional.pad(data, (left, right, top, bottom)), (0, 0)
        return functional.conv2d(data, weight, bias, op.stride, pads, op.dilation, op.groups)

    def _rounded(self, name: str, values: Tensor) -> Tensor:
        return rounded(values, self._steps[name]) if self.rounds else values


def _corrected(calibrated: Calibrated, rounding: Rounding) -> dict[str, NDArray[np.float32]]:
    """Biases that take back by how much rounded weights move means, in float32."""
    graph = calibrated.graph
    integers = rounded_graph(graph, calibrated.ranges, calibrated.statistics, rounding)
    found = {}
    for node in graph.nodes:
        if isinstance(node.op, Conv):
            bias = integers.tensors[node.inputs[2]]
            assert bias.data is not None
            assert bias.quantization is not None
            found[bias.name] = np.float32(np.float64(bias.data) * bias.quantization.scale)
    return found


def rounded(values: Tensor, step: Tensor | float) -> Tensor:
    """To whole steps, at most `STORED_LIMIT` of them; the gradient is that of clipping alone."""
    clipped = (values / step).clamp(-STORED_LIMIT, STORED_LIMIT)
    return (clipped + (clipped.round() - clipped).detach()) * step


def weight_steps(weight: Tensor, scale_steps: int) -> Tensor:
    """(output channels,) as `quantization.rounding` chooses them where biases are not enormous."""
    step = weight.abs().amax((1, 2, 3)) / STORED_LIMIT
    step = torch.where(step > 0, step, step.amax().clamp(min=torch.finfo(step.dtype).tiny))
    if scale_steps == 0:
        return step
    return torch.exp2(torch.ceil(torch.log2(step.double()) * scale_steps - 1e-4) / scale_steps).to(
        step.dtype
    )


def _activated(values: Tensor, op: Conv | Add) -> Tensor:
    if op.activation == "relu6":
        return functional.relu6(values)
    if op.activation == "leaky_relu":
        return functional.leaky_relu(values, op.slope)
    return functional.relu(values) if op.activation == "relu" else values


# What makes no new values. A batch has more than one image, a Graph one.
_PASSED_ON: dict[type, Callable[[Any, Sequence[Tensor]], Tensor]] = {
    Relu: lambda _, inputs: functional.relu(inputs[0]),
    Concat: lambda op, inputs: torch.cat(list(inputs), op.axis),
    Transpose: lambda op, inputs: inputs[0].permute(op.order),
    Reshape: lambda op, inputs: inputs[0].reshape(len(inputs[0]), *op.shape[1:]),
    Upsample: lambda _, inputs: functional.interpolate(inputs[0], inputs[1].shape[2:]),
}


def _check(graph: Graph) -> None:
    known = (Conv, Add, LeakyRelu, *_PASSED_ON)
    for node in graph.nodes:
        if not isinstance(node.op, known):
            raise ModelError(f"learning in int8 has no way through {node.kind} '{node.name}'")


def learn(
    network: RoundedNetwork,
    teacher: RoundedNetwork,
    config: Config,
    samples: Sequence[Sample],
    pictures: Pictures,
    *,
    epochs: float,
    rate: float = RATE,
) -> Iterator[tuple[float, float]]:
    """Moves the network's constants; after each step, the share of all steps and what it cost.

    At the end they are the average of what they were, the last steps' above all.

    Args:
        network: On its device.
        teacher: The same calibrated network, which does not round; there, too.
        config: Of the run that the network comes from.
        samples: The images.
        pictures: The same ones decoded.
        epochs: How often each is seen.
        rate: Of Adam, at its start; it falls as half a cosine.
    """
    stage, priors = config.stages[-1], network.spec.priors
    source = network.spec.resized(*stage.size).input
    device = next(network.parameters()).device
    average = [constant.detach().clone() for constant in network.constants]
    optimizer = torch.optim.Adam(network.parameters(), rate, betas=_MOMENTS)
    order = Order(samples, config)
    steps = max(1, round(epochs * len(order) / stage.batch))
    slowing = dataclasses.replace(config, learning_rate=rate, schedule="cosine", warm_up=0.0)
    stream = batches(order, stage, Progress(), config, priors)
    for step, (_, plans, _) in zip(range(steps), stream):
        images = draw(pictures, plans, source).to(device)
        loss = _loss(network, teacher, images, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(slowing, step / steps)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(network.constants), 1 - _kept(step))
        if not math.isfinite(cost := float(loss.detach())):
            raise DataError(f"the loss is {cost} in step {step}: a smaller rate than {rate} helps")
        if step + 1 == steps:
            # The loss is of the weights before the step.
            if not all(constant.isfinite().all() for constant in average):
                raise DataError(f"the weights are not finite: a smaller rate than {rate} helps")
            with torch.no_grad():
                torch._foreach_copy_(list(network.constants), average)
        yield (step + 1) / steps, cost


def _kept(step: int) -> float:
    """How much of the average stays: less at first, when it is that of few."""
    return min(_AVERAGE, (1 + step) / (10 + step))


def _loss(
    network: RoundedNetwork, teacher: RoundedNetwork, images: Tensor, config: Config
) -> Tensor:
    """How far it is from what it was."""
    options = config.distillation
    with torch.no_grad():
        wanted = teacher(images)
    said = network(images)
    scores, boxes = distillation_loss(
        said, wanted, temperature=options.temperature, confident=options.confident
    )
    landmarks = landmark_distillation_loss(said, wanted, confident=options.confident)
    return scores + boxes + config.landmark_weight * landmarks
