"""A model file opened: its network and what it was trained with."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import _core, bundled, networks, zoo
from . import spec as specs
from .errors import ModelError
from .formats import onnx, tmfile, torch_weights
from .heads import joined

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from .graph import Graph
    from .spec import ModelSpec

METADATA_KEY = "edgeface.spec"
# The largest of these networks is about 110 MB; a file beyond this is not one of them.
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Model:
    """A network and its spec, which fit each other in name and input size."""

    path: Path
    graph: Graph
    spec: ModelSpec
    spec_source: str  # where the spec came from, for people

    def resized(self, width: int, height: int) -> Model:
        if self.graph.input_size == (width, height):
            return self
        try:
            graph = self.graph.resized(width, height)
        except ModelError as error:
            raise ModelError(f"{self.path}: no input of {width}x{height}: {error}") from None
        return Model(self.path, graph, self.spec.resized(width, height), self.spec_source)


def load(
    path: str | os.PathLike[str], spec: ModelSpec | str | os.PathLike[str] | None = None
) -> Model:
    """Reads a .tmfile, .onnx, .pth or .pt, or the bundled model of that name, and finds its spec.

    The spec is `spec` (one, or its file), else the .json of the same name beside the model, else
    the one inside the ONNX metadata, else that of the published file with this sha256, else that of
    a published network with exactly these outputs. PyTorch weights know no input size: published
    ones have that of their release, others 320x240.

    Raises:
        FileNotFoundError: There is no such file.
        ModelError: The file is damaged or unsupported, or it has no spec or one that does not fit; or no
            model of that name is bundled.
    """
    path = bundled.resolved(path)
    opened = _opened(path)
    found, source = _find_spec(path, opened, spec)
    try:
        opened = opened._replace(graph=joined(opened.graph, found))
        _check_fit(opened, found)
        _check_decoding(opened, found)
    except ModelError as error:
        raise ModelError(f"{path} with the spec from {source}: {error}") from None
    return Model(path, opened.graph, found, source)


def read_graph(path: Path) -> tuple[bytes, Graph]:
    """The file's bytes and the network in them; of a bundled model, if it is its name."""
    path = bundled.resolved(path)
    opened = _opened(path)
    return opened.data, opened.graph


class _Opened(NamedTuple):
    """A file's bytes and all that was found in them."""

    data: bytes
    published: zoo.Published | None
    graph: Graph
    decoding: onnx.Decoding | None
    metadata: Mapping[str, str]


def _opened(path: Path) -> _Opened:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ModelError(f"{path}: unknown kind of model; expected {' or '.join(_READERS)}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelError(f"{path}: {path.stat().st_size} bytes; expected at most {MAX_FILE_BYTES}")
    data = path.read_bytes()
    published = zoo.known(hashlib.sha256(data).hexdigest())
    try:
        return reader(data, published)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _from_tmfile(data: bytes, published: zoo.Published | None) -> _Opened:
    return _Opened(data, published, tmfile.read(data), None, {})


def _from_onnx(data: bytes, published: zoo.Published | None) -> _Opened:
    found = onnx.load(data, published.size if published is not None else None)
    return _Opened(data, published, found.graph, found.decoding, found.metadata)


def _from_torch(data: bytes, published: zoo.Published | None) -> _Opened:
    size = published.size if published is not None else networks.DEFAULT_SIZE
    slope = published.slope if published is not None else None
    graph = networks.build(torch_weights.read(data), size, slope=slope)
    return _Opened(data, published, graph, None, {})


_READERS = {".tmfile": _from_tmfile, ".onnx": _from_onnx, ".pth": _from_torch, ".pt": _from_torch}


def _find_spec(
    path: Path, opened: _Opened, given: ModelSpec | str | os.PathLike[str] | None
) -> tuple[ModelSpec, str]:
    if isinstance(given, specs.ModelSpec):
        return given, "the caller"
    sidecar = path.with_suffix(".json") if given is None else Path(given)
    if given is not None or sidecar.is_file():
        return specs.read(sidecar), str(sidecar)
    if METADATA_KEY in opened.metadata:
        return specs.from_json(opened.metadata[METADATA_KEY]), "the file's metadata"
    graph = opened.graph
    published = opened.published
    if published is not None:
        return zoo.published_spec(published, graph), f"the published file {published.file}"
    recognised = zoo.recognised(graph)
    if recognised is not None:
        return recognised, f"the published {recognised.name} models"
    outputs = ", ".join(f"{name} {graph.tensors[name].shape}" for name in graph.outputs)
    raise ModelError(
        f"{path}: no spec, and no published model has these outputs: {outputs}. Write one beside it: "
        f"edgeface info {path} --write-spec {zoo.FAMILIES[0]}, then edit {sidecar.name}"
    )


def _check_fit(opened: _Opened, spec: ModelSpec) -> None:
    """What can be told without running the network; the detector checks the heads."""
    graph = opened.graph
    digest = hashlib.sha256(opened.data).hexdigest()
    if spec.sha256 not in (None, digest):
        raise ModelError(f"the file's sha256 is {digest}; the spec is for {spec.sha256}")
    size = (spec.input.width, spec.input.height)
    if size != graph.input_size:
        raise ModelError(f"the network's input is {graph.input_size}, the spec's {size}")
    if spec.input.name != graph.input:
        raise ModelError(f"the network's input is '{graph.input}', the spec's '{spec.input.name}'")
    missing = [name for name in spec.heads.roles.values() if name not in graph.outputs]
    if missing:
        raise ModelError(f"the network has outputs {graph.outputs}; the spec names {missing[0]!r}")
    # Before the core makes them: a small spec may ask for any number.
    priors = spec.priors.count(*size)
    values = math.prod(graph.tensors[spec.heads.boxes].shape)
    if values < 4 * priors:
        raise ModelError(
            f"output '{spec.heads.boxes}' has {values} values; "
            f"the spec's {priors} priors need {4 * priors}"
        )


def _check_decoding(opened: _Opened, spec: ModelSpec) -> None:
    """Where an ONNX file decodes its boxes itself, its priors are known: the spec must have the same."""
    decoding = opened.decoding
    if decoding is None:
        return
    priors = _core.make_priors(core_spec(spec))
    same = priors.shape == decoding.priors.shape and np.allclose(priors, decoding.priors, atol=1e-5)
    if not same or not np.allclose(spec.priors.variances, decoding.variances, rtol=1e-3):
        raise ModelError("the priors or variances inside the file are not the spec's")


def core_spec(spec: ModelSpec) -> _core.Spec:
    """The spec in the form that the C++ core takes."""
    return _core.Spec(
        width=spec.input.width,
        height=spec.input.height,
        channels=spec.input.channels,
        mean=spec.input.mean,
        scale=spec.input.scale,
        resize=spec.input.resize,
        strides=spec.priors.strides,
        min_sizes=spec.priors.min_sizes,
        grid=spec.priors.grid,
        clip=spec.priors.clip,
        variances=spec.priors.variances,
        scores=spec.heads.scores,
        boxes=spec.heads.boxes,
        landmarks=spec.heads.landmarks or "",
        encoding=spec.heads.encoding,
        activation=spec.heads.activation,
        objectness=spec.heads.objectness or "",
    )
