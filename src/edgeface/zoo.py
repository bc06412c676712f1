"""Published models that bring no spec: what they were trained with, and how to tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .graph import Softmax
from .spec import HeadSpec, InputSpec, ModelSpec, PriorSpec

if TYPE_CHECKING:
    from .graph import Graph

FAMILIES = ("ultraface",)


def ultraface(graph: Graph) -> ModelSpec:
    """Ultra-Light (slim and RFB): the constants of its training code, for this network's input size.

    Its boxes are stretched to the input, its prior centres spread over each level's cells, and
    priors are clipped to the image. Published ports use other centres; the weights do not fit those.
    """
    width, height = graph.input_size
    return ModelSpec(
        name="ultraface",
        input=InputSpec(
            name=graph.input,
            width=width,
            height=height,
            channels="rgb",
            mean=(127.0, 127.0, 127.0),
            scale=(1 / 128, 1 / 128, 1 / 128),
            resize="stretch",
        ),
        priors=PriorSpec(
            strides=(8, 16, 32, 64),
            min_sizes=((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0)),
            grid="cell",
            clip=True,
            variances=(0.1, 0.2),
        ),
        heads=HeadSpec(
            scores="scores",
            boxes="boxes",
            landmarks=None,
            encoding="offsets",
            activation="none" if _ends_in_softmax(graph, "scores") else "softmax",
        ),
        score_threshold=0.7,
        iou_threshold=0.3,
        licence="MIT",
        training_data="WIDER FACE",
    )


def family_spec(family: str, graph: Graph) -> ModelSpec:
    """The spec that a network of that family has; ValueError for a family that is not known."""
    if family != "ultraface":
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return ultraface(graph)


def recognised(graph: Graph) -> ModelSpec | None:
    """The spec of a published network, told by its outputs' names and exact shapes, or None."""
    if set(graph.outputs) != {"scores", "boxes"}:
        return None
    spec = ultraface(graph)
    priors = spec.priors.count(*graph.input_size)
    fits = (
        graph.tensors[graph.input].shape[1] == 3
        and graph.tensors["scores"].shape == (1, priors, 2)
        and graph.tensors["boxes"].shape == (1, priors, 4)
    )
    return spec if fits else None


def _ends_in_softmax(graph: Graph, output: str) -> bool:
    return any(isinstance(node.op, Softmax) for node in graph.nodes if node.output == output)
