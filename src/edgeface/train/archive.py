"""Archives written: a folder or a .tar that is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import tarfile
from typing import TYPE_CHECKING

from .samples import ANNOTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    # A file's name inside and its content.
    Add = Callable[[str, bytes], None]


OTHER_ARCHIVES = (".bz2", ".gz", ".tgz", ".xz", ".zip")


def is_tar(output: Path) -> bool:
    return output.suffix == ".tar"


def beside(output: Path, name: str) -> Path:
    """In a folder, or next to data.tar as data.report.json."""
    return output.with_suffix(f".{name}") if is_tar(output) else output / name


def check_absent(output: Path, *, force: bool) -> None:
    """Refuses to replace what is there, and always what prepare cannot have written.

    Raises:
        FileExistsError: For one of these reasons.
        ValueError: The name is that of an archive of another kind.
    """
    if output.suffix in OTHER_ARCHIVES:
        raise ValueError(f"{output}: expected a .tar (not compressed) or a folder")
    if not os.path.lexists(output):
        return
    if not force:
        raise FileExistsError(errno.EEXIST, "exists; --force replaces it", str(output))
    if is_tar(output) != output.is_file():
        raise FileExistsError(errno.EEXIST, "exists and is something else", str(output))
    if output.is_dir() and any(output.iterdir()) and not (output / ANNOTATIONS).is_file():
        raise FileExistsError(errno.EEXIST, f"has no {ANNOTATIONS}: not replaced", str(output))


@contextlib.contextmanager
def new_archive(output: Path) -> Iterator[Add]:
    """Gives what adds a file to `output`, which appears, or is replaced, when all went well."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(output)
    try:
        with (_tar if is_tar(output) else _folder)(partial) as add:
            yield add
        _replace(partial, output)
    finally:
        _remove(partial)


def write_whole(path: Path, data: bytes) -> None:
    """Never half a file."""
    partial = _partial(path)
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        _remove(partial)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextlib.contextmanager
def _tar(path: Path) -> Iterator[Add]:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes) -> None:
            # No owner and no time: they would make equal archives differ.
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        yield add


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Add]:
    path.mkdir()

    def add(name: str, data: bytes) -> None:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    yield add


def _replace(partial: Path, output: Path) -> None:
    if not output.is_dir():
        partial.replace(output)
        return
    # A folder that is not empty cannot be replaced in one step.
    old = partial.with_suffix(".old")
    output.rename(old)
    partial.rename(output)
    shutil.rmtree(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
