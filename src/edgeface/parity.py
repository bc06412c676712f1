"""Whether two model files, or one on two backends, compute the same: tensor by tensor, face by face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, bench, model
from .backends import open_backend
from .errors import BackendError, ModelError
from .graph import FLOAT32, Graph, Node, Reshape, Transpose, pruned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .backends import Choice
    from .faces import Face, Faces
    from .spec import ModelSpec

    Floats = NDArray[np.float32]

VERDICTS = ("same", "close", "different")  # the worse, the later


@dataclass(frozen=True)
class Limits:
    """The most by which what two ends find may differ."""

    tensor: float  # of the largest magnitude in the tensor
    box: float  # pixels in a frame scaled to REFERENCE_WIDTH
    score: float


REFERENCE_WIDTH = 640
SAME_IOU = 0.5  # of the boxes of one face

# float32 sums of up to 9 x 256 products in another order: 2304 roundings of 2**-24 are 1.4e-4 at the very worst,
# the square root of that many 3e-6. Box offsets reach 7: 1e-4 of that, times the variance 0.1 and a prior of 256 pixels
# in an input of 320, is 0.04 pixels at 640.
SAME = Limits(tensor=1e-4, box=0.1, score=1e-3)
# What int8 and uint8 do to most faces: RFB-320 from 32 to 8 bits moves boxes by up to 4.0 pixels and scores by up
# to 0.10 on six photographs with 206 faces, the large scores among small, blurred ones at the threshold.
CLOSE = Limits(tensor=1e-2, box=5.0, score=0.05)


@dataclass(frozen=True)
class End:
    """One of the two networks, and the backend wanted for it."""

    path: Path
    graph: Graph
    spec: ModelSpec | None
    spec_problem: str | None = None
    backend: str = "auto"


@dataclass(frozen=True)
class Difference:
    """Of a tensor at both ends."""

    name: str
    other_name: str
    largest: float  # absolute difference; inf where one holds what is not finite
    magnitude: float  # the largest absolute value at either end

    @property
    def relative(self) -> float:
        return self.largest / self.magnitude if self.largest > 0 else 0.0

    @property
    def verdict(self) -> str:
        return _verdict(self.relative <= limits.tensor for limits in (SAME, CLOSE))


@dataclass(frozen=True)
class Tensors:
    """What both ends compute from the same input."""

    backends: tuple[str, str]
    heads: tuple[Difference, ...]
    compared: int  # tensors inside that the networks have in common
    nodes: tuple[int, int]  # of both, each of which makes one
    diverging: Difference | None  # the first of those that differs by more than SAME
    problem: str | None  # why the heads or the tensors inside could not be compared
    verdict: str


@dataclass(frozen=True)
class Matched:
    """The faces that both ends find in a picture."""

    counts: tuple[int, int]
    matched: int
    largest_box: float  # pixels in a frame scaled to REFERENCE_WIDTH
    largest_score: float
    verdict: str


def open_end(path: Path, backend: str = "auto") -> End:
    """The file and its spec where it has one that fits; ModelError where its network cannot be read."""
    try:
        opened = model.load(path)
    except ModelError as error:
        return End(path, model.read_graph(path)[1], None, str(error), backend)
    return End(path, opened.graph, opened.spec, None, backend)


def worst(verdicts: Iterable[str]) -> str:
    return max(verdicts, key=VERDICTS.index, default=VERDICTS[0])


def _verdict(fits: Iterable[bool]) -> str:
    """The first verdict whose limits hold."""
    return next((name for name, fit in zip(VERDICTS, fits) if fit), VERDICTS[-1])


# --- Tensors ---------------------------------------------------------------------------------------


def compare_tensors(one: End, other: End, frame: NDArray[np.uint8] | None = None) -> Tensors:
    """Both ends on the same frame: by default noise, the same every time.

    Raises:
        BackendError: No backend runs one of them.
    """
    nodes = len(one.graph.nodes), len(other.graph.nodes)
    if one.graph.input_size != other.graph.input_size:
        sizes = " and ".join(f"{w}x{h}" for w, h in (one.graph.input_size, other.graph.input_size))
        apart = f"their inputs are {sizes}; tensors are compared at one size"
        return Tensors(("-", "-"), (), 0, nodes, None, apart, "different")
    images = _images(one, other, frame)
    heads = _heads(one, other)
    found, backends = _both(one, other, heads, images)
    found = [_probabilities(one, other, *item) for item in zip(heads, found)]
    differences = tuple(_difference(*pair, *values) for pair, values in zip(heads, found))
    problem = None if heads else "they have no output in common"
    if heads and len(heads) < max(len(one.graph.outputs), len(other.graph.outputs)):
        problem = f"they share {len(heads)} outputs of {one.graph.outputs}, {other.graph.outputs}"
    compared, diverging, inside = _inside(one, other, images, backends)
    return Tensors(
        backends=backends,
        heads=differences,
        compared=compared,
        nodes=nodes,
        diverging=diverging,
        problem=problem or inside,
        verdict=worst([d.verdict for d in differences] + ["different"] * (problem is not None)),
    )


def _inside(
    one: End, other: End, images: tuple[Floats, Floats], backends: tuple[str, str]
) -> tuple[int, Difference | None, str | None]:
    """How many tensors inside are common, the first that differs, and why they were not compared."""
    pairs = common_tensors(one.graph, other.graph)
    if not pairs:
        return 0, None, None
    ends = _with_backend(one, backends[0]), _with_backend(other, backends[1])
    try:
        found, _ = _both(*ends, pairs, images)
    except BackendError as error:
        return 0, None, f"the tensors inside were not compared: {error}"
    first = _difference(one.graph.input, other.graph.input, *images)
    differences = [first, *(_difference(*pair, *values) for pair, values in zip(pairs, found))]
    diverging = next((d for d in differences if d.verdict != "same"), None)
    return len(pairs), diverging, None


def common_tensors(one: Graph, other: Graph) -> list[tuple[str, str]]:
    """The tensors that both compute by the same operators, in the first's order.

    Found from the outputs backwards, and so whatever they are called and in whatever order the nodes are;
    where operators or shapes part, what lies before is not looked at by that way.
    """
    makers = [{node.output: node for node in graph.nodes} for graph in (one, other)]
    open_pairs = list(zip(one.outputs, other.outputs))
    if set(one.outputs) == set(other.outputs):
        open_pairs = [(name, name) for name in one.outputs]
    paired: dict[str, str] = {}
    taken: set[str] = set()
    while open_pairs:
        name, other_name = open_pairs.pop()
        a, b = makers[0].get(name), makers[1].get(other_name)
        if a is None or b is None or name in paired or other_name in taken:
            continue
        shapes = one.tensors[name].shape, other.tensors[other_name].shape
        if a.kind != b.kind or shapes[0] != shapes[1] or len(a.inputs) != len(b.inputs):
            continue
        paired[name] = other_name
        taken.add(other_name)
        open_pairs += zip(a.inputs, b.inputs)
    return [(node.output, paired[node.output]) for node in one.nodes if node.output in paired]


def _heads(one: End, other: End) -> list[tuple[str, str]]:
    """The outputs that mean the same, by their specs or else by name."""
    if one.spec is None or other.spec is None:
        return [(name, name) for name in one.graph.outputs if name in other.graph.outputs]
    names, others = one.spec.heads.roles, other.spec.heads.roles
    return [(name, others[role]) for role, name in names.items() if role in others]


def _probabilities(
    one: End, other: End, names: tuple[str, str], values: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Scores as probabilities where only one network ends in them; everything else as it is."""
    if one.spec is None or other.spec is None:
        return values
    heads = one.spec.heads, other.spec.heads
    if names != (heads[0].scores, heads[1].scores) or heads[0].activation == heads[1].activation:
        return values
    a, b = (
        _softmax(logits) if head.activation == "softmax" else logits
        for head, logits in zip(heads, values)
    )
    return a, b


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Floats = powers / powers.sum(-1, keepdims=True)
    return shares


def _images(one: End, other: End, frame: NDArray[np.uint8] | None) -> tuple[Floats, Floats]:
    """What goes into each: preprocessed as its own spec says, or else as the other's."""
    frame = bench.random_frame(*one.graph.input_size) if frame is None else frame
    specs = one.spec or other.spec, other.spec or one.spec
    a, b = (_image(end.graph, spec, frame) for end, spec in zip((one, other), specs))
    return a, b


def _image(graph: Graph, spec: ModelSpec | None, frame: NDArray[np.uint8]) -> Floats:
    shape = graph.tensors[graph.input].shape
    if spec is None:
        noise = np.random.default_rng(0).uniform(-1, 1, shape)
        return noise.astype(np.float32)
    return _core.preprocess(frame, model.core_spec(spec), "bgr")


def _with_backend(end: End, backend: str) -> End:
    return End(end.path, end.graph, end.spec, end.spec_problem, backend)


def _both(
    one: End, other: End, pairs: Sequence[tuple[str, str]], images: tuple[Floats, Floats]
) -> tuple[list[tuple[Floats, Floats]], tuple[str, str]]:
    """The values of every pair, and the backends that computed them."""
    if not pairs:
        return [], ("-", "-")
    names, other_names = zip(*pairs)
    values, choice = run(one.graph, names, images[0], one.backend)
    others, other_choice = run(other.graph, other_names, images[1], other.backend)
    found = [(values[a], others[b]) for a, b in pairs]
    return found, (str(choice), str(other_choice))


def run(
    graph: Graph, names: Iterable[str], image: Floats, backend: str
) -> tuple[dict[str, Floats], Choice]:
    """The real values of those tensors, which may lie inside, in the graph's own order of axes."""
    outputs = tuple(dict.fromkeys(names))
    part = pruned(list(graph.nodes), graph.tensors, graph.input, outputs)
    runner, choice = open_backend(part, backend, num_threads=1)
    _fill(runner.input(), part, image)
    runner.run()
    keeps_pixels = isinstance(runner, _core.Engine)
    return {
        name: _real(np.array(runner.output(name)), part, name, keeps_pixels=keeps_pixels)
        for name in outputs
    }, choice


def _fill(target: NDArray[Any], graph: Graph, image: Floats) -> None:
    quantization = graph.tensors[graph.input].quantization
    if target.dtype == FLOAT32 or quantization is None:
        target[:] = image
        return
    limits = np.iinfo(target.dtype)
    stored = np.rint(image / quantization.scale[0]) + quantization.zero_point[0]
    # As many steps to either side: Tengine's int8 ends at -127.
    least = -limits.max if limits.min < 0 else limits.min
    target[:] = np.clip(stored, least, limits.max).astype(target.dtype)


def _real(found: NDArray[Any], graph: Graph, name: str, *, keeps_pixels: bool) -> Floats:
    tensor = graph.tensors[name]
    values = found.astype(np.float32)
    if found.dtype != FLOAT32 and tensor.quantization is not None:
        values = (values - tensor.quantization.zero_point[0]) * tensor.quantization.scale[0]
    if keeps_pixels and _is_image(graph, name):
        _, channels, height, width = tensor.shape
        values = values.reshape(1, height, width, channels).transpose(0, 3, 1, 2)
    shaped: Floats = values.reshape(tensor.shape)
    return shaped


def _is_image(graph: Graph, name: str) -> bool:
    """Whether the native engine keeps it as height x width x channels."""
    makers: dict[str, Node] = {node.output: node for node in graph.nodes}
    while name in makers:
        if isinstance(makers[name].op, (Transpose, Reshape)):
            return False
        name = makers[name].inputs[0]
    return len(graph.tensors[name].shape) == 4


def _difference(name: str, other_name: str, one: Floats, other: Floats) -> Difference:
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return Difference(name, other_name, float("inf"), 1.0)
    largest = np.abs(one.astype(np.float64) - other).max()
    magnitude = max(np.abs(one).max(), np.abs(other).max())
    return Difference(name, other_name, float(largest), float(magnitude))


# --- Faces -----------------------------------------------------------------------------------------


def match_faces(one: Faces, other: Faces, width: int, thresholds: tuple[float, float]) -> Matched:
    """The faces of both, best score first, each with the one that overlaps it most.

    Args:
        one: Found by the first.
        other: Found by the second.
        width: Of the frame, in pixels.
        thresholds: The ends' score thresholds: a face near its own may be missing at the other end.
    """
    pairs, left, other_left = _paired(list(one), list(other))
    boxes = [abs(x - y) for a, b in pairs for x, y in zip(a.box, b.box)]
    box = max(boxes, default=0.0) * REFERENCE_WIDTH / width
    score = max((abs(a.score - b.score) for a, b in pairs), default=0.0)

    def fits(limits: Limits) -> bool:
        least = max(thresholds) + limits.score
        marginal = all(face.score <= least for face in (*left, *other_left))
        return marginal and box <= limits.box and score <= limits.score

    return Matched(
        counts=(len(one), len(other)),
        matched=len(pairs),
        largest_box=box,
        largest_score=score,
        verdict=_verdict(fits(limits) for limits in (SAME, CLOSE)),
    )


def _paired(
    faces: list[Face], others: list[Face]
) -> tuple[list[tuple[Face, Face]], list[Face], list[Face]]:
    pairs, left, free = [], [], list(others)
    for face in faces:
        best = max(free, key=lambda candidate: bench.iou(face, candidate), default=None)
        if best is None or bench.iou(face, best) < SAME_IOU:
            left.append(face)
            continue
        free.remove(best)
        pairs.append((face, best))
    return pairs, left, free


def together(matches: Iterable[Matched]) -> Matched | None:
    """Of all pictures; None where there is none."""
    rows = list(matches)
    if not rows:
        return None
    return Matched(
        counts=(sum(m.counts[0] for m in rows), sum(m.counts[1] for m in rows)),
        matched=sum(m.matched for m in rows),
        largest_box=max(m.largest_box for m in rows),
        largest_score=max(m.largest_score for m in rows),
        verdict=worst(m.verdict for m in rows),
    )


def difference_text(difference: Difference) -> str:
    """For people."""
    names = difference.name
    if difference.other_name != difference.name:
        names += f" ({difference.other_name})"
    if difference.largest == 0:
        return f"{names}: equal"
    share = f"{difference.relative:.2g} of the largest value"
    return f"{names}: differs by up to {difference.largest:.3g}, {share}"


def limits_text() -> Iterator[str]:
    """The thresholds of the verdicts, for people."""
    for name, limits in (("same", SAME), ("close", CLOSE)):
        yield (
            f"{name}: tensors within {limits.tensor:g} of their largest value, scores within "
            f"{limits.score:g}, boxes within {limits.box:g} pixels at a width of {REFERENCE_WIDTH}"
        )
