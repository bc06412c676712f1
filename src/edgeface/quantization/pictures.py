"""Pictures to calibrate with: files, those in a folder or a .tar, read each time they are gone through."""

from __future__ import annotations

import contextlib
import tarfile
import zlib
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from .. import media
from ..evaluation.truth import TarFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    Frame = NDArray[np.uint8]
    Read = Callable[[], Frame]
    Progress = Callable[[Sequence[str]], Iterable[str]]

ARCHIVE = ".tar"


class Pictures:
    """(H, W, 3) BGR frames, the same ones each time. Close it, or use it in a `with`.

    Args:
        inputs: Picture files, folders, and .tar archives.
        samples: The most pictures to take, equally far apart in the order of their names or members.
        on_error: Called with a message, once, for each that cannot be read; the others go on.
        progress: Goes through a list, and may show how far.
    """

    def __init__(
        self,
        inputs: Sequence[Path],
        samples: int,
        *,
        on_error: Callable[[str], None],
        progress: Progress = iter,
    ) -> None:
        self._on_error = on_error
        self._progress = progress
        with contextlib.ExitStack() as stack:
            found: dict[str, Read] = {}
            for path in inputs:
                is_archive = path.suffix.lower() == ARCHIVE
                found.update(_archived(path, stack) if is_archive else _in_files(path, on_error))
            self._open = stack.pop_all()
        self.found = len(found)
        names = list(found)
        chosen = np.linspace(0, len(names) - 1, min(samples, len(names))).round().astype(int)
        self._reads = {names[i]: found[names[i]] for i in chosen}

    def __len__(self) -> int:
        return len(self._reads)

    def __iter__(self) -> Iterator[Frame]:
        for name in self._progress(list(self._reads)):
            frame = self._frame(name)
            if frame is not None:
                yield frame

    def _frame(self, name: str) -> Frame | None:
        try:
            return self._reads[name]()
        except media.MediaError as error:
            del self._reads[name]
            self._on_error(str(error))
            return None

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Pictures:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _in_files(path: Path, on_error: Callable[[str], None]) -> dict[str, Read]:
    sources = media.sources([path], skip=None, on_error=on_error)
    for source in sources:
        if source.is_video:
            on_error(f"{source.path}: videos are not calibrated with")
    files = [source.path for source in sources if not source.is_video]
    return {str(file): partial(media.read_image, file) for file in files}


def _archived(path: Path, stack: contextlib.ExitStack) -> dict[str, Read]:
    files = TarFiles(path)
    stack.callback(files.close)
    names = [n for n in files.names if PurePosixPath(n).suffix.lower() in media.IMAGE_SUFFIXES]
    return {f"{path}: {name}": partial(_member, files, path, name) for name in names}


def _member(files: TarFiles, path: Path, name: str) -> Frame:
    try:
        data = files.read(name)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise media.MediaError(f"{path}: {name}: {error}") from None
    return media.decode_image(data, f"{path}: {name}")
