"""Pictures and videos in files: found, read and written with OpenCV (extra `image`)."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

IMAGE_SUFFIXES = frozenset(
    (
        ".bmp",
        ".dib",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    )
)
VIDEO_SUFFIXES = frozenset(
    (
        ".3gp",
        ".avi",
        ".flv",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".webm",
        ".wmv",
    )
)
# The one kind of video that every build of OpenCV writes.
WRITTEN_VIDEO, CODEC = ".mp4", "mp4v"
# Some files, and most cameras, do not say.
DEFAULT_FPS = 25.0


class MediaError(Exception):
    """A picture or video that cannot be read; says which and why."""


def opencv() -> Any:
    """The cv2 module; ImportError says how to get it."""
    # A broken file is reported once, by us and with its name: not by OpenCV and FFmpeg without it.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f'pictures need OpenCV ({error}): pip install "edgeface[image]"'
        ) from error
    return cv2


@dataclass(frozen=True)
class Source:
    """A file to look for faces in."""

    path: Path
    relative: Path  # below the directory it was found in; of a file given by itself, its name

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def sources(
    inputs: Sequence[Path], *, skip: Path | None, on_error: Callable[[str], None]
) -> list[Source]:
    """The inputs, each directory replaced by the images below it; a file is given only once.

    Args:
        inputs: Files and directories.
        skip: A directory not to search: the one that drawn pictures go to.
        on_error: Called with a message for each directory that cannot be read or holds no image.
    """
    found: dict[Path, Source] = {}
    for path in inputs:
        if not path.is_dir():
            found.setdefault(path, Source(path, Path(path.name)))
            continue
        images = _images_below(path, skip, on_error)
        if not images:
            on_error(f"{path}: no images in this directory")
        for image in images:
            found.setdefault(image, Source(image, image.relative_to(path)))
    return list(found.values())


def _images_below(
    directory: Path, skip: Path | None, on_error: Callable[[str], None]
) -> list[Path]:
    """Sorted; without hidden files, such as the `._name.jpg` that macOS leaves on memory cards."""
    skipped = None if skip is None else _identity(skip)

    def report(error: OSError) -> None:
        on_error(f"{error.filename}: {error.strerror}")

    found: list[Path] = []
    for root, directories, names in os.walk(directory, onerror=report):
        inner = [Path(root, name) for name in directories if not name.startswith(".")]
        directories[:] = [d.name for d in inner if skipped is None or _identity(d) != skipped]
        files = [Path(root, name) for name in names if not name.startswith(".")]
        found += [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    return sorted(found)


def destinations(inputs: Sequence[Path], found: Sequence[Source], output: Path) -> list[Path]:
    """Where each source is drawn to: `output` itself for one file, else a path below it.

    Raises:
        ValueError: An input would be overwritten, two results would go to one file, or `output`
            names a file where a directory, or another kind of file, is needed.
    """
    names_file = output.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not output.is_dir()
    if not names_file:
        written = [output / _written_name(source) for source in found]
    elif len(inputs) == 1 and not inputs[0].is_dir():
        _check_kind(found[0], output)
        written = [output]
    else:
        raise ValueError(
            f"{output} names one file; for a directory or several inputs it must be a directory"
        )
    _check_overwriting(found, written)
    return written


def _written_name(source: Source) -> Path:
    if source.is_video:
        return source.relative.with_suffix(WRITTEN_VIDEO)
    if opencv().haveImageWriter(source.relative.name):
        return source.relative
    return source.relative.with_name(f"{source.relative.name}.png")


def _check_kind(source: Source, output: Path) -> None:
    suffix = output.suffix.lower()
    if source.is_video and suffix != WRITTEN_VIDEO:
        raise ValueError(f"{output}: drawn videos are written as {WRITTEN_VIDEO}")
    if not source.is_video and suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{output} names a video, but {source.path} is an image")


def _check_overwriting(found: Sequence[Source], written: Sequence[Path]) -> None:
    read = {_identity(source.path): source.path for source in found}
    made_from: dict[Path, Path] = {}
    for source, path in zip(found, written):
        identity = _identity(path)
        if identity in read:
            raise ValueError(f"the output {path} would overwrite the input {read[identity]}")
        other = made_from.setdefault(path, source.path)
        if other != source.path:
            raise ValueError(f"{other} and {source.path} would both be written to {path}")


def _identity(path: Path) -> tuple[int, int] | str:
    """What two names of one file have in common, links and letter case included."""
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return status.st_dev, status.st_ino


def read_image(path: Path) -> NDArray[np.uint8]:
    """The picture as (H, W, 3) BGR, upright as its EXIF data says; 16 bits are cut to 8, alpha dropped."""
    opencv()
    try:
        # Not imread: on Windows it cannot open every name.
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}") from None
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str, *, upright: bool = True) -> NDArray[np.uint8]:
    """As `read_image`, of a file's bytes, or with its rows and columns as stored; errors start with the name."""
    cv2 = opencv()
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    if not data:
        raise MediaError(f"{name}: the file is empty")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise MediaError(f"{name}: OpenCV cannot read it: {error}") from None
    if picture is None:
        raise MediaError(f"{name}: damaged, or not a picture that OpenCV can read")
    return np.asarray(picture, np.uint8)


# --- JPEG frames of cameras -------------------------------------------------------------------------

# What libjpeg makes of its 8 x 8 blocks at hardly any cost beside decoding: whole pictures of one pixel in
# so many along either side.
REDUCTIONS = (8, 4, 2)


def check_jpeg() -> None:
    """ImportError, with what helps, where there is no library that decodes JPEG."""
    if importlib.util.find_spec("cv2") is None and importlib.util.find_spec("PIL") is None:
        raise ImportError(
            'JPEG frames need OpenCV or Pillow: pip install "edgeface[image]", or pillow, which is smaller'
        )


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG, from the marker that says so (ITU T.81, B.2.2); MediaError without one."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data):
        if data[position] != 0xFF:
            break
        marker, length = (
            data[position + 1],
            int.from_bytes(data[position + 2 : position + 4], "big"),
        )
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            if width > 0 and height > 0:
                return width, height
            break
        # Any byte may be repeated before a marker.
        position += 1 if marker == 0xFF else 2 + length
    raise MediaError("no JPEG, or one cut short before its size")


def decode_jpeg(data: bytes, reduction: int) -> tuple[NDArray[np.uint8], str]:
    """A JPEG's pixels, one in `reduction` (1 or of REDUCTIONS) along either side, and "bgr" or "rgb".

    As stored: no EXIF data turns it. MediaError where it is damaged.
    """
    try:
        cv2 = opencv()
    except ImportError:
        return _decode_jpeg_with_pillow(data, reduction), "rgb"
    kind = "IMREAD_COLOR" if reduction == 1 else f"IMREAD_REDUCED_COLOR_{reduction}"
    flags = getattr(cv2, kind) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise MediaError(f"OpenCV cannot read it: {error}") from None
    if picture is None:
        raise MediaError("a damaged JPEG")
    return np.asarray(picture, np.uint8), "bgr"


def _decode_jpeg_with_pillow(data: bytes, reduction: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            width, height = picture.size
            picture.draft("RGB", (max(1, width // reduction), max(1, height // reduction)))
            return np.asarray(picture.convert("RGB"), np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"Pillow cannot read it: {error}") from None


# --- Written ----------------------------------------------------------------------------------------


def write_image(path: Path, picture: NDArray[np.uint8]) -> None:
    """In the format that the suffix says; makes the directories above."""
    cv2 = opencv()
    try:
        written, data = cv2.imencode(path.suffix, picture)
    except cv2.error as error:
        raise OSError(f"{path}: OpenCV cannot write it: {error}") from None
    if not written:
        raise OSError(f"{path}: OpenCV cannot write it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def _opencv_name(path: Path) -> str:
    """The path whose UTF-8 is the file's name, whatever the locale's encoding; OpenCV dies of any other."""
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise MediaError(f"{path}: OpenCV opens videos with names in UTF-8 only") from None


class Video:
    """The frames of a video file, each with its time in seconds since the first."""

    def __init__(self, path: Path) -> None:
        self._cv2 = opencv()
        if not path.is_file():
            raise MediaError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        self._path = path
        self._capture = self._cv2.VideoCapture(_opencv_name(path))
        if not self._capture.isOpened():
            raise MediaError(f"{path}: damaged, or not a video that OpenCV can read")

    @property
    def fps(self) -> float:
        """As the file says, DEFAULT_FPS where it does not."""
        fps = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        return fps if 0 < fps < 1000 else DEFAULT_FPS

    @property
    def frame_count(self) -> int | None:
        """As the file says, which may be wrong; None where it does not."""
        count = int(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        return count if count > 0 else None

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        first: float | None = None
        while True:
            is_read, frame = self._capture.read()
            if not is_read:
                break
            # Versions of OpenCV differ in whether this is the frame's time or the next one's.
            time = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000
            first = time if first is None else first
            yield time - first, np.asarray(frame, np.uint8)
        if first is None:
            raise MediaError(f"{self._path}: no frame in it can be read")

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._capture.release()


class VideoWriter:
    """Writes an .mp4 of its first frame's size; MPEG-4 drops the last row or column of an odd one."""

    def __init__(self, path: Path, fps: float) -> None:
        self._cv2 = opencv()
        self._path, self._fps = path, fps
        self._writer: Any = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        if self._writer is None:
            self._writer = self._open(frame.shape[1], frame.shape[0])
        self._writer.write(frame)

    def _open(self, width: int, height: int) -> Any:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        codec = self._cv2.VideoWriter_fourcc(*CODEC)
        writer = self._cv2.VideoWriter(_opencv_name(self._path), codec, self._fps, (width, height))
        if not writer.isOpened():
            raise OSError(f"{self._path}: OpenCV cannot write this video")
        return writer

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()
