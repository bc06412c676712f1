"""From one model format to another, with what the model was trained with."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import model, trim
from . import spec as specs
from .errors import ModelError
from .formats import onnx, tmfile
from .parity import End

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from .graph import Graph
    from .spec import ModelSpec

WRITTEN = (".tmfile", ".onnx")
# Models of one stem share the .json beside them.
_MODEL_SUFFIXES = (".tmfile", ".onnx", ".pth", ".pt")


@dataclass(frozen=True)
class Converted:
    """What was written, and the network that it was written from."""

    source: End
    target: Path
    bytes: int
    sidecar: Path | None  # where the spec is beside the model
    warning: str | None  # why there is no spec
    left_out: tuple[int, ...] = ()  # strides of the levels that it lacks


def convert(
    source: Path,
    target: Path,
    *,
    spec: str | os.PathLike[str] | None = None,
    input_size: tuple[int, int] | None = None,
    min_face: float = 0.0,
    levels: Sequence[int] | None = None,
    force: bool = False,
) -> Converted:
    """Writes the network of a .pth, .pt, .onnx or .tmfile as the .tmfile or .onnx that `target` names.

    Its spec goes with it: into an ONNX file's metadata, beside a .tmfile as .json. That says the sha256 of
    its file, unless another model of the same name lies there, which it is for as well. At another input size
    the published accuracy is left out: nobody measured it there.

    Levels of priors are left out as FaceDetector leaves them out, for a `min_face` in frames as large as the
    input, or all but those of the strides in `levels`.

    Raises:
        ValueError: The target's suffix is another one, or it is the source itself.
        FileExistsError: The target or its .json is there already, and `force` is not given.
        ModelError: The source cannot be read, its spec does not fit, or the format cannot hold the network;
            or levels are to be left out, and it has no spec or joins them in an unknown way.
    """
    check_target(source, target, force=force)
    graph, found, warning = _opened(source, spec, input_size)
    left_out: tuple[int, ...] = ()
    if min_face > 0 or levels is not None:
        if found is None:
            raise ModelError(
                f"only a spec says which levels there are, and there is none: {warning}"
            )
        whole = found.priors
        strides = trim.needed_strides(whole, min_face) if levels is None else tuple(levels)
        graph, found = trim.trimmed(graph, found, strides)
        left_out = tuple(stride for stride in whole.strides if stride not in strides)
    size, sidecar = save(graph, found, target, force=force)
    return Converted(
        source=End(source, graph, found),
        target=target,
        bytes=size,
        sidecar=sidecar,
        warning=warning,
        left_out=left_out,
    )


def save(
    graph: Graph, spec: ModelSpec | None, target: Path, *, force: bool
) -> tuple[int, Path | None]:
    """Writes a network, and its spec where `convert` puts it: the file's bytes, and the .json beside it.

    Raises:
        FileExistsError: There is a .json that says something else, and `force` is not given.
        ModelError: The format cannot hold the network.
    """
    data = _written(target, graph, spec)
    digest = hashlib.sha256(data).hexdigest()
    beside = None if spec is None else _sidecar(target, spec, digest, force=force)
    if spec is None and target.with_suffix(".json").exists():
        raise FileExistsError(
            errno.EEXIST, "it would be read as the spec of a model that has none", _json(target)
        )
    contents = {target: data}
    if beside is not None and beside[1] is not None:
        contents[beside[0]] = beside[1]
    _replace(contents)
    return len(data), None if beside is None else beside[0]


def check_target(source: Path, target: Path, *, force: bool) -> None:
    """What can be told before any work that `save` writes to that name; raises as `convert` does."""
    if target.suffix.lower() not in WRITTEN:
        raise ValueError(f"{target}: expected a name that ends in {' or '.join(WRITTEN)}")
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(target.parent))
    if not target.exists():
        return
    if source.exists() and target.samefile(source):
        raise ValueError(f"{target}: the converted model needs a name of its own")
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(target))
    if not force:
        raise FileExistsError(errno.EEXIST, "exists; --force replaces it", str(target))


def _opened(
    source: Path, spec: str | os.PathLike[str] | None, input_size: tuple[int, int] | None
) -> tuple[Graph, ModelSpec | None, str | None]:
    """The network, its spec, and why it has none."""
    try:
        opened = model.load(source, spec)
    except ModelError as error:
        if spec is not None or _brings_spec(source):
            raise
        graph = model.read_graph(source)[1]
        return graph.resized(*input_size) if input_size else graph, None, str(error)
    if input_size is None or input_size == opened.graph.input_size:
        return opened.graph, opened.spec, None
    opened = opened.resized(*input_size)
    return opened.graph, dataclasses.replace(opened.spec, ap={}), None


def _brings_spec(source: Path) -> bool:
    """Whether there is a spec, so that a model without one is an error in it."""
    if source.with_suffix(".json").is_file():
        return True
    if source.suffix.lower() != ".onnx":
        return False
    try:
        return model.METADATA_KEY in onnx.load(source.read_bytes()).metadata
    except ModelError:
        return False  # nor has it a network, which is what will be said


def _written(target: Path, graph: Graph, spec: ModelSpec | None) -> bytes:
    try:
        if target.suffix.lower() == ".tmfile":
            return tmfile.write(graph)
        # A file cannot hold its own sha256.
        inside = None if spec is None else dataclasses.replace(spec, sha256=None)
        metadata = {} if inside is None else {model.METADATA_KEY: specs.to_json(inside)}
        return onnx.write(graph, metadata)
    except ModelError as error:
        raise ModelError(f"{target} cannot be written: {error}") from None


def _sidecar(
    target: Path, spec: ModelSpec, digest: str, *, force: bool
) -> tuple[Path, bytes | None] | None:
    """The .json beside the target and what to write into it; nothing where it says the same already.

    An .onnx gets none of its own, but one that lies there comes before the metadata and so must fit.
    """
    path = target.with_suffix(".json")
    if target.suffix.lower() == ".onnx" and not path.exists():
        return None
    is_shared = any(
        path.with_suffix(suffix).exists()
        for suffix in _MODEL_SUFFIXES
        if suffix != target.suffix.lower()
    )
    wanted = dataclasses.replace(spec, sha256=None if is_shared else digest)
    if path.exists():
        if _says(path, wanted) or _says(path, dataclasses.replace(spec, sha256=None)):
            return path, None
        if not force:
            raise FileExistsError(errno.EEXIST, _conflict(path, spec), str(path))
    return path, specs.to_json(wanted).encode()


def _conflict(path: Path, spec: ModelSpec) -> str:
    """Why the .json that lies there cannot stay."""
    try:
        other = specs.read(path)
    except (ModelError, OSError) as error:
        return f"cannot be read ({error}); --force replaces it"
    if dataclasses.replace(other, sha256=None) == dataclasses.replace(spec, sha256=None):
        return "it is for the file with that sha256 alone; --force makes it one for both"
    return "says something else; --force replaces it"


def _says(path: Path, spec: ModelSpec) -> bool:
    try:
        return specs.read(path) == spec
    except (ModelError, OSError):
        return False


def _json(target: Path) -> str:
    return str(target.with_suffix(".json"))


def _replace(contents: Mapping[Path, bytes]) -> None:
    """All of the files or, where one cannot be written, none; never half of one."""
    with contextlib.ExitStack() as stack:
        written = [
            (stack.enter_context(_temporary(path, data)), path) for path, data in contents.items()
        ]
        for temporary, path in written:
            temporary.replace(path)


@contextlib.contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path`, on the disk when this returns: boards lose their power."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
