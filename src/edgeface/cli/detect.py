"""edgeface detect: the faces in images and videos."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..detector import FaceDetector
from .arguments import (
    FAILED,
    add_command,
    add_model,
    backend_parser,
    given_options,
    options_parser,
    parse_roi,
)
from .console import Console
from .tables import count_of, face_lines

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..faces import Faces

EPILOG = """\
An INPUT is an image, a video (told by its suffix) or a directory, which is searched for images at
every depth, in the order of their names; hidden files and OUT itself are left out.

What comes out:
  (neither)  a line for every image or video frame, and one for every face in it
  --json     a JSON object on a line of its own for every image or video frame:
             {"file": ..., "width": ..., "height": ..., "faces": [{"box": [x1, y1, x2, y2],
             "score": ...}, ...]}; a video's frames have "frame" (from 0) and "time" (seconds) too
  -o OUT     pictures with the faces drawn on them. For one image or video, OUT may be a file;
             otherwise it is a directory: an image keeps its name and its place below the INPUT
             directory, a video becomes an .mp4. Inputs are never overwritten, other files are.

Images are read upright, as their EXIF data says, as 8 bit BGR. One that cannot be read is named on
stderr and the others go on; the exit status is then 1.
"""


def add_parser(commands: Any) -> None:
    backend = backend_parser("the runtime (default: %(default)s, the first that runs the network)")
    text = "find the faces in images and videos"
    parser = add_command(
        commands, "detect", run, options_parser(), backend, text=text, epilog=EPILOG
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT")
    add_model(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="draw the faces; see below"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines; see below")
    parser.add_argument(
        "--roi",
        type=parse_roi,
        metavar="X,Y,W,H",
        help="look only in this part of every frame (pixels)",
    )


def run(arguments: argparse.Namespace) -> int:
    media.opencv()
    console = Console()
    output: Path | None = arguments.output
    found = media.sources(arguments.inputs, skip=output, on_error=console.failure)
    drawn: Sequence[Path | None] = [None] * len(found)
    if output is not None:
        drawn = media.destinations(arguments.inputs, found, output)
    if len(found) > 1 or any(source.is_video for source in found):
        console.start_bars()
    with FaceDetector(
        arguments.model, backend=arguments.backend, **given_options(arguments)
    ) as detector:
        pairs = list(zip(found, drawn))
        for source, target in console.progress(pairs, "file", len(pairs)):
            detect = _detect_video if source.is_video else _detect_image
            try:
                detect(arguments, console, detector, source.path, target)
            except media.MediaError as error:
                console.failure(str(error))
    return FAILED if console.failures else 0


def _detect_image(
    arguments: argparse.Namespace,
    console: Console,
    detector: FaceDetector,
    path: Path,
    target: Path | None,
) -> None:
    frame = media.read_image(path)
    faces = _faces(arguments, detector, path, frame)
    if target is not None:
        media.write_image(target, faces.draw(frame))
    if arguments.json:
        console.result(_json_line(path, frame.shape, faces))
    elif target is not None:
        console.result(f"{path}: {count_of(len(faces), 'face')}, drawn in {target}")
    else:
        console.result("\n".join(face_lines(str(path), faces)))


def _detect_video(
    arguments: argparse.Namespace,
    console: Console,
    detector: FaceDetector,
    path: Path,
    target: Path | None,
) -> None:
    frames = with_faces = 0
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(media.Video(path))
        writer = stack.enter_context(media.VideoWriter(target, video.fps)) if target else None
        for time, frame in console.progress(video, "frame", video.frame_count):
            faces = _faces(arguments, detector, path, frame)
            if writer is not None:
                writer.write(faces.draw(frame))
            if arguments.json:
                console.result(
                    _json_line(path, frame.shape, faces, frame=frames, time=round(time, 3))
                )
            elif writer is None:
                title = f"{path} frame {frames} ({time:.2f} s)"
                console.result("\n".join(face_lines(title, faces)))
            frames += 1
            with_faces += len(faces) > 0
    if target is not None and not arguments.json:
        counts = f"faces in {with_faces} of {count_of(frames, 'frame')}"
        console.result(f"{path}: {counts}, drawn in {target}")


def _faces(
    arguments: argparse.Namespace, detector: FaceDetector, path: Path, frame: NDArray[np.uint8]
) -> Faces:
    try:
        return detector.detect(frame, roi=arguments.roi)
    except ValueError as error:
        # This frame is too small for the roi, say; the next file's may not be.
        raise media.MediaError(f"{path}: {error}") from error


def _json_line(path: Path, shape: tuple[int, ...], faces: Faces, **more: float) -> str:
    height, width = shape[:2]
    values = {"file": str(path), **more, "width": width, "height": height, **faces.to_dict()}
    # As ASCII: valid JSON whatever the file's name and the terminal's encoding.
    return json.dumps(values)
