"""edgeface demo: the face in a photograph of an astronaut, or in one of yours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..detector import FaceDetector
from .arguments import add_command, add_model, backend_parser, given_options, options_parser
from .tables import face_lines

if TYPE_CHECKING:
    import argparse

    import numpy as np
    from numpy.typing import NDArray


def add_parser(commands: Any) -> None:
    backend = backend_parser("the runtime (default: %(default)s)")
    text = (
        "find the face in scikit-image's photograph of an astronaut, or those in a picture of yours"
    )
    parser = add_command(commands, "demo", run, options_parser(), backend, text=text)
    parser.add_argument(
        "picture", nargs="?", type=Path, metavar="PICTURE", help="default: the astronaut"
    )
    add_model(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("faces.png"),
        metavar="FILE",
        help="the drawn picture (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.output.suffix.lower() not in media.IMAGE_SUFFIXES:
        raise ValueError(f"{arguments.output}: expected the name of a picture, such as faces.png")
    media.opencv()
    name, frame = _frame(arguments.picture)
    with FaceDetector(
        arguments.model, backend=arguments.backend, **given_options(arguments)
    ) as detector:
        faces = detector.detect(frame)
    media.write_image(arguments.output, faces.draw(frame))
    print("\n".join(face_lines(name, faces)))
    stages = ", ".join(f"{name} {ms:.2f}" for name, ms in detector.timings._asdict().items())
    print(f"{sum(detector.timings):.2f} ms with {arguments.model} on {detector.backend}: {stages}")
    print(f"drawn in {arguments.output}")
    return 0


def _frame(picture: Path | None) -> tuple[str, NDArray[np.uint8]]:
    if picture is None:
        return "astronaut", _astronaut()
    try:
        return str(picture), media.read_image(picture)
    except media.MediaError as error:
        raise OSError(str(error)) from None


def _astronaut() -> NDArray[np.uint8]:
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            f'the photograph needs scikit-image ({error}): pip install "edgeface[demo]", or name '
            "a picture: edgeface demo PICTURE"
        ) from error
    # It is RGB; frames are BGR.
    photograph: NDArray[np.uint8] = data.astronaut()[:, :, ::-1].copy()
    return photograph
