"""edgeface train prepare: data sets made ready for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..train import readers
from ..train.archive import beside, check_absent
from ..train.prepare import FACE_COUNTS, IMAGE_COUNTS, ON_ERROR, Options, prepare
from .arguments import FAILED, add_command, parse_count, parse_size
from .console import Console
from .tables import count_of, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..train.prepare import Report
    from ..train.samples import Sample

DEFAULTS = Options()
EPILOG = f"""\
A SOURCE is a data set, told by what is there:
{chr(10).join(f"  {name:<9} {text}" for name, text in readers.FORMATS.items())}

A face whose longer side is under --min-face pixels in an image stretched to --size is painted over with the
colour around it and its label dropped: it is no face to the network, and no background either. The same
happens to faces that the data set calls invalid. Boxes without area or outside the image are dropped,
others are clipped to it. Images keep their bytes unless they are painted or made smaller.

OUT is a .tar, or a folder. The counts go to OUT/report.json, or beside OUT.tar to OUT.report.json; --preview
makes a preview.png there. The exit status is 1 when images were skipped.
"""


def add_parser(commands: Any) -> None:
    text = "make data sets ready for training"
    parser = add_command(commands, "prepare", run, text=text, epilog=EPILOG)
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE")
    parser.add_argument("--output", "-o", required=True, type=Path, metavar="OUT", help="see below")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    parser.add_argument(
        "--format", choices=readers.FORMATS, help="of every SOURCE (default: what is found there)"
    )
    parser.add_argument(
        "--classes",
        type=lambda text: text.split(","),
        metavar="NAME,...",
        help="what faces are called in a VOC or COCO data set (default: face and the like)",
    )
    parser.add_argument(
        "--min-face",
        type=float,
        default=DEFAULTS.min_face,
        metavar="PIXELS",
        help="the smallest face to learn, in training pixels (default: %(default)g)",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        default=DEFAULTS.size,
        metavar="WxH",
        help="that is trained at (default: 320x240)",
    )
    parser.add_argument(
        "--max-side",
        type=parse_count,
        default=DEFAULTS.max_side,
        metavar="PIXELS",
        help="make larger images smaller (default: %(default)s)",
    )
    parser.add_argument(
        "--quality",
        type=parse_count,
        default=DEFAULTS.quality,
        metavar="Q",
        help="of JPEGs that are written, 1 to 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--on-error",
        choices=ON_ERROR,
        default=DEFAULTS.on_error,
        help="what to do about a damaged image or label (default: %(default)s)",
    )
    parser.add_argument(
        "--preview", type=parse_count, metavar="N", help="draw N of the images on one sheet"
    )


def run(arguments: argparse.Namespace) -> int:
    media.opencv()
    options = Options(
        min_face=arguments.min_face,
        size=arguments.size,
        max_side=arguments.max_side,
        quality=arguments.quality,
        on_error=arguments.on_error,
    )
    output = arguments.output
    # Before data sets are read, which takes a while.
    check_absent(output, force=arguments.force)
    datasets = [
        readers.open_dataset(path, arguments.format, classes=arguments.classes)
        for path in arguments.sources
    ]
    console = Console()
    console.start_bars()
    report = prepare(datasets, output, options, force=arguments.force, progress=console.progress)
    for problem in report.problems:
        console.failure(f"skipped: {problem}")
    _print_report(report)
    print(f"wrote {output}")
    if arguments.preview is not None:
        _write_preview(report.samples, options, arguments.preview, beside(output, "preview.png"))
    return FAILED if report.problems else 0


def _print_report(report: Report) -> None:
    """A row for each count, a column for each source."""
    columns = dict(report.sources)
    if len(columns) > 1:
        columns["total"] = report.total
    rows = [
        (name, *(f"{counts[name]:,}" for counts in columns.values()))
        for name in (*IMAGE_COUNTS, *FACE_COUNTS)
    ]
    print_table([("", *columns), *rows], align="<" + ">" * len(columns))


def _write_preview(samples: Sequence[Sample], options: Options, count: int, path: Path) -> None:
    from ..train.preview import contact_sheet

    if not samples:
        print("no preview: no image was written")
        return
    media.write_image(path, contact_sheet(samples, options, count))
    print(f"drew {count_of(min(count, len(samples)), 'image')} in {path}")
