"""What there is to know about a model file, also one that has no spec or that no backend runs."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import bundled, model, trim, zoo
from . import spec as specs
from .backends import native, supporting
from .detector import FaceDetector
from .errors import ModelError
from .graph import Conv

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from .backends import Support
    from .graph import Graph
    from .spec import ModelSpec

FORMATS = {
    ".tmfile": "Tengine tmfile",
    ".onnx": "ONNX",
    ".pth": "PyTorch weights",
    ".pt": "PyTorch weights",
}


@dataclass(frozen=True)
class Port:
    """An input or output of the network."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Layer:
    """One node of the network."""

    kind: str
    name: str
    shape: tuple[int, ...]  # of its output
    multiply_adds: int


@dataclass(frozen=True)
class Level:
    """The priors of one stride."""

    stride: int
    columns: int
    rows: int
    min_sizes: tuple[float, ...]  # input pixels
    priors: int
    dispensable_from: float | None  # smallest face wanted, input pixels; None: it is always needed


@dataclass(frozen=True)
class Summary:
    """A model file, its network, and its spec where there is one that fits."""

    file: str
    bytes: int
    sha256: str
    format: str
    precision: str
    input: Port
    outputs: tuple[Port, ...]
    layers: tuple[Layer, ...]
    weights: int
    weight_bytes: int
    spec: ModelSpec | None
    spec_source: str | None
    spec_problem: str | None  # why there is no spec, or why it does not fit the network
    levels: tuple[Level, ...]
    plan: tuple[native.PlannedStep, ...] | None
    backends: tuple[Support, ...]

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def layer_counts(self) -> dict[str, int]:
        """By kind, the most frequent first."""
        return dict(Counter(layer.kind for layer in self.layers).most_common())


def summarise(
    path: Path,
    *,
    spec: str | os.PathLike[str] | None = None,
    input_size: tuple[int, int] | None = None,
    plan_threads: int | None = None,
) -> Summary:
    """Everything about a file; ModelError only where its network cannot be read or resized.

    With `plan_threads` also the native engine's plan for that many threads; BackendError where it
    does not run the network.
    """
    path = bundled.resolved(path)
    opened, problem = _opened(path, spec)
    graph = opened.graph if opened is not None else model.read_graph(path)[1]
    if input_size is not None:
        graph = graph.resized(*input_size)
        opened = opened.resized(*input_size) if opened is not None else None
    backends = supporting(graph)
    if opened is not None:
        problem = _misfit(opened, spec, backends)
    data = path.read_bytes()
    return Summary(
        file=str(path),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        format=FORMATS.get(path.suffix.lower(), path.suffix),
        precision=_precision(graph),
        input=_port(graph, graph.input),
        outputs=tuple(_port(graph, name) for name in graph.outputs),
        layers=_layers(graph),
        weights=sum(t.data.size for t in graph.constants if t.data is not None),
        weight_bytes=sum(t.data.nbytes for t in graph.constants if t.data is not None),
        spec=opened.spec if opened is not None else None,
        spec_source=opened.spec_source if opened is not None else None,
        spec_problem=problem,
        levels=_levels(opened.spec) if opened is not None else (),
        plan=native.plan(graph, plan_threads) if plan_threads is not None else None,
        backends=backends,
    )


def face_sizes(
    spec: ModelSpec, width: int, height: int
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The (width, height) of the smallest and of the largest min_size in a frame of that size.

    None where these say nothing of faces.
    """
    if spec.priors.are_points:
        return None
    x, y = width / spec.input.width, height / spec.input.height
    if spec.input.resize == "letterbox":
        x = y = max(x, y)
    sizes = [size for level in spec.priors.min_sizes for size in level]
    return (min(sizes) * x, min(sizes) * y), (max(sizes) * x, max(sizes) * y)


def frame_scale(spec: ModelSpec, width: int, height: int) -> float:
    """Pixels of a frame of that size for one of the input, along the side that shrinks more."""
    return max(width / spec.input.width, height / spec.input.height)


def write_spec(path: Path, family: str) -> Path:
    """Writes the spec of a network of that family beside the model file, for people to edit.

    Raises:
        FileExistsError: There is one already.
    """
    _, graph = model.read_graph(path)
    # Nothing says that this file has the family's licence or was trained on its data.
    spec = dataclasses.replace(
        zoo.family_spec(family, graph), name=path.stem, licence=None, training_data=None
    )
    sidecar = path.with_suffix(".json")
    with sidecar.open("x", encoding="utf-8") as file:
        file.write(specs.to_json(spec))
    return sidecar


def _opened(
    path: Path, spec: str | os.PathLike[str] | None
) -> tuple[model.Model | None, str | None]:
    try:
        return model.load(path, spec), None
    except ModelError as error:
        return None, str(error)


def _misfit(
    opened: model.Model, spec: str | os.PathLike[str] | None, backends: tuple[Support, ...]
) -> str | None:
    """Why the heads do not fit the spec, which only an opened detector knows."""
    runs = [support.backend for support in backends if support.refusal is None]
    if not runs:
        return None
    size = opened.graph.input_size
    try:
        with warnings.catch_warnings():
            # That it computes wrongly matters to nobody here, and `backends` says it.
            warnings.simplefilter("ignore", RuntimeWarning)
            FaceDetector(opened.path, spec=spec, backend=runs[0], input_size=size).close()
    except ModelError as error:
        return str(error)
    return None


def _port(graph: Graph, name: str) -> Port:
    tensor = graph.tensors[name]
    return Port(name, tensor.shape, str(tensor.dtype))


def _layers(graph: Graph) -> tuple[Layer, ...]:
    return tuple(
        Layer(n.kind, n.name, graph.tensors[n.output].shape, graph.multiply_adds(n))
        for n in graph.nodes
    )


def _precision(graph: Graph) -> str:
    """The type of the convolutions' weights."""
    weights = {
        str(graph.tensors[node.inputs[1]].dtype)
        for node in graph.nodes
        if isinstance(node.op, Conv)
    }
    return " and ".join(sorted(weights)) or str(graph.tensors[graph.input].dtype)


def _levels(spec: ModelSpec) -> tuple[Level, ...]:
    levels = []
    least = trim.dispensable_from(spec.priors)
    for stride, sizes in zip(spec.priors.strides, spec.priors.min_sizes):
        columns, rows = -(-spec.input.width // stride), -(-spec.input.height // stride)
        count = columns * rows * len(sizes)
        levels.append(Level(stride, columns, rows, sizes, count, least.get(stride)))
    return tuple(levels)
