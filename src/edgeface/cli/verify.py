"""edgeface verify: whether two models, or one on two backends, find the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media, parity
from ..backends import BACKENDS
from ..detector import FaceDetector
from ..errors import ModelError
from .arguments import FAILED, add_command
from .console import Console
from .tables import count_of, print_rows, squeezed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

_LIMITS = "\n".join(f"  {line}" for line in parity.limits_text())

EPILOG = f"""\
Without --images, both run on one frame of noise and only tensors are compared. Each end preprocesses as its
own spec says. Tensors inside the networks are compared where both compute them by the same operators.

Verdicts, the worst of which is the report's:
{_LIMITS}
  different: anything else
A face that only one end finds must have a score no further above the threshold than scores may differ.

The exit status is 1 for "different", or where a picture cannot be read.
"""


def add_parser(commands: Any) -> None:
    text = "compare two models, or one on two backends"
    parser = add_command(commands, "verify", run, text=text, epilog=EPILOG)
    parser.add_argument("one", type=Path, metavar="A", help="a .tmfile, .onnx, .pth or .pt")
    parser.add_argument(
        "other", type=Path, nargs="?", metavar="B", help="another (default: A, on --backend-b)"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE|DIR",
        help="compare the faces found in these, too",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for end in "ab":
        parser.add_argument(
            f"--backend-{end}",
            default="auto",
            choices=("auto", *BACKENDS),
            help=f"what runs {end.upper()} (default: %(default)s)",
        )


def run(arguments: argparse.Namespace) -> int:
    if arguments.other is None and arguments.backend_a == arguments.backend_b:
        raise ValueError("one file needs two backends: --backend-a and --backend-b")
    console = Console()
    one = parity.open_end(arguments.one, arguments.backend_a)
    other = parity.open_end(arguments.other or arguments.one, arguments.backend_b)
    pictures = _pictures(arguments.images, console)
    tensors = parity.compare_tensors(one, other)
    faces = _faces(one, other, pictures, console) if pictures else {}
    total = parity.together(faces.values())
    verdict = parity.worst([tensors.verdict, *([total.verdict] if total is not None else [])])
    values = {
        "a": {"file": str(one.path), "backend": tensors.backends[0]},
        "b": {"file": str(other.path), "backend": tensors.backends[1]},
        "tensors": _tensor_values(tensors),
        "images": [{"file": str(path), **asdict(found)} for path, found in faces.items()],
        "faces": None if total is None else asdict(total),
        "limits": {"same": asdict(parity.SAME), "close": asdict(parity.CLOSE)},
        "verdict": verdict,
    }
    if arguments.json:
        print(json.dumps(values))
    else:
        print_rows(_rows((one, other), tensors, faces, verdict))
    return FAILED if verdict == "different" or console.failures else 0


def _pictures(inputs: Sequence[Path], console: Console) -> list[Path]:
    if not inputs:
        return []
    media.opencv()
    found = media.sources(inputs, skip=None, on_error=console.failure)
    for source in found:
        if source.is_video:
            console.failure(f"{source.path}: videos are not compared")
    return [source.path for source in found if not source.is_video]


def _faces(
    one: parity.End, other: parity.End, pictures: Sequence[Path], console: Console
) -> dict[Path, parity.Matched]:
    for end in (one, other):
        if end.spec is None:
            raise ModelError(f"faces need a spec: {end.spec_problem}")
    found: dict[Path, parity.Matched] = {}
    console.start_bars()
    with _detector(one) as first, _detector(other) as second:
        for path in console.progress(pictures, "image", len(pictures)):
            try:
                found[path] = _matched(first, second, media.read_image(path))
            except media.MediaError as error:  # noqa: PERF203 - the others go on
                console.failure(str(error))
    return found


def _detector(end: parity.End) -> FaceDetector:
    return FaceDetector(end.path, spec=end.spec, backend=end.backend)


def _matched(first: FaceDetector, second: FaceDetector, frame: NDArray[np.uint8]) -> parity.Matched:
    thresholds = first.spec.score_threshold, second.spec.score_threshold
    faces = first.detect(frame), second.detect(frame)
    return parity.match_faces(*faces, frame.shape[1], thresholds)


def _tensor_values(tensors: parity.Tensors) -> dict[str, Any]:
    """Numbers that are not finite are none in JSON."""
    values = asdict(tensors)
    differences = [*values["heads"], *([values["diverging"]] if values["diverging"] else [])]
    for difference in differences:
        if difference["largest"] == float("inf"):
            difference["largest"] = None
    return values


def _rows(
    ends: tuple[parity.End, parity.End],
    tensors: parity.Tensors,
    faces: dict[Path, parity.Matched],
    verdict: str,
) -> Iterator[tuple[str, str]]:
    for name, end, backend in zip("AB", ends, tensors.backends):
        yield name, f"{end.path} on {backend}"
        if end.spec_problem is not None:
            yield "", squeezed(f"without a spec: {end.spec_problem}")
    for head in tensors.heads:
        yield "head", parity.difference_text(head)
    if tensors.problem is not None:
        yield "", squeezed(tensors.problem)
    if tensors.compared:
        first = tensors.diverging
        found = "none differs" if first is None else f"the first: {parity.difference_text(first)}"
        yield "inside", f"{_inside_text(tensors)}; {found}"
    yield "tensors", tensors.verdict
    for path, matched in faces.items():
        yield "image", f"{path}: {_matched_text(matched)}"
    total = parity.together(faces.values())
    if total is not None:
        yield "faces", _matched_text(total)
    for line in parity.limits_text():
        yield "limits", line
    yield "verdict", verdict


def _inside_text(tensors: parity.Tensors) -> str:
    if tensors.nodes == (tensors.compared, tensors.compared):
        return f"{count_of(tensors.compared, 'tensor')}, all in common"
    return f"{tensors.compared} tensors in common, of {tensors.nodes[0]} and {tensors.nodes[1]}"


def _matched_text(matched: parity.Matched) -> str:
    most = max(matched.counts)
    counts = f"{matched.matched} of {most} matched ({matched.counts[0]} and {matched.counts[1]})"
    box = f"box {matched.largest_box:.2f} px at {parity.REFERENCE_WIDTH}"
    return f"{counts}, {box}, score {matched.largest_score:.4f}: {matched.verdict}"
