"""edgeface demo: the face in a photograph of an astronaut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..detector import FaceDetector
from .arguments import add_command, backend_parser, given_options, options_parser
from .tables import face_lines

if TYPE_CHECKING:
    import argparse

    import numpy as np
    from numpy.typing import NDArray


def add_parser(commands: Any) -> None:
    backend = backend_parser("the runtime (default: %(default)s)")
    text = "find the face in scikit-image's photograph of an astronaut"
    parser = add_command(commands, "demo", run, options_parser(), backend, text=text)
    parser.add_argument("--model", help="a .tmfile or .onnx")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("faces.png"),
        metavar="FILE",
        help="the drawn picture (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.model is None:
        raise ValueError("no model comes with edgeface yet: give one with --model FILE.tmfile")
    if arguments.output.suffix.lower() not in media.IMAGE_SUFFIXES:
        raise ValueError(f"{arguments.output}: expected the name of a picture, such as faces.png")
    media.opencv()
    frame = _astronaut()
    with FaceDetector(
        arguments.model, backend=arguments.backend, **given_options(arguments)
    ) as detector:
        faces = detector.detect(frame)
    media.write_image(arguments.output, faces.draw(frame))
    print("\n".join(face_lines("astronaut", faces)))
    stages = ", ".join(f"{name} {ms:.2f}" for name, ms in detector.timings._asdict().items())
    print(f"{sum(detector.timings):.2f} ms on {detector.backend}: {stages}")
    print(f"drawn in {arguments.output}")
    return 0


def _astronaut() -> NDArray[np.uint8]:
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            f'the photograph needs scikit-image ({error}): pip install "edgeface[demo]"'
        ) from error
    # It is RGB; frames are BGR.
    photograph: NDArray[np.uint8] = data.astronaut()[:, :, ::-1].copy()
    return photograph
