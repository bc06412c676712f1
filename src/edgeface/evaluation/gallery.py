"""The worst misses and false detections, cut out of their images, for people to look at."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from .. import media
from . import precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .figures import Assessment
    from .truth import Scene, Truth

    Picture = NDArray[np.uint8]
    Color = tuple[int, int, int]

COLUMNS, ROWS = 6, 2
TILE, STRIP, TITLE = (
    216,
    34,
    30,
)  # pixels: a cut-out, its two lines of text, a line above or below all
LINE = 200  # small letters across all tiles
# How much more of the image is shown than the box itself.
CONTEXT = 2.5
LEAST_SIDE = 40  # frame pixels: a face of 5 says nothing without what is round it
PAPER, INK, OUTSIDE = (255, 255, 255), (40, 40, 40), (225, 225, 225)
FACE, OTHER, DETECTION = (70, 190, 40), (170, 170, 170), (0, 120, 255)  # BGR
LEGEND = "green: faces, gray: faces that do not count, orange: detections; the wide box is meant"


@dataclass(frozen=True, eq=False)
class Case:
    """A mistake: the worse, the larger."""

    scene: int
    box: NDArray[np.float64]  # (4,) corners
    badness: float
    text: str


def write(truth: Truth, assessment: Assessment, path: Path) -> None:
    """The largest faces missed and the surest false detections of one model, at its own threshold.

    Raises:
        DataError: An image cannot be read.
        OSError: The picture cannot be written.
    """
    used = assessment.figures
    score = used.score_threshold
    missed, false = misses(truth, assessment), false_detections(truth, assessment)
    picture = np.concatenate(
        [
            _title(f"{used.name} at its threshold {score:g}, faces of '{truth.widest}'. {LEGEND}"),
            _title(f"{len(missed)} faces missed, the largest first"),
            _sheet(truth, assessment, missed),
            _title(f"{len(false)} false detections, the best score first"),
            _sheet(truth, assessment, false),
            *(
                _title(line, 0.38)
                for line in textwrap.wrap(used.protocol, LINE, break_on_hyphens=False)
            ),
        ]
    )
    media.write_image(path, picture)


def misses(truth: Truth, assessment: Assessment) -> list[Case]:
    """Faces of the widest subset without a detection of the model's threshold, largest first."""
    cases = []
    for i, scene in enumerate(truth.scenes):
        rows, owners = assessment.found.rows[i], assessment.owners[i]
        scale = assessment.candidate.scale(assessment.found.sizes[i])
        for face in np.flatnonzero(scene.kept[truth.widest]):
            best = rows[owners == face, 4].max(initial=0)
            if best < np.float32(assessment.figures.score_threshold):
                box = scene.faces[face]
                height = (box[3] - box[1]) * scale
                text = f"{height:.0f} px of input, " + (f"score {best:.2f}" if best else "no box")
                cases.append(Case(i, box, height, text))
    return _worst_first(cases)


def false_detections(truth: Truth, assessment: Assessment) -> list[Case]:
    """Detections of the model's threshold that count and are no hits, best score first."""
    judged = assessment.judged[truth.widest]
    false = judged.counted & ~judged.hits
    false &= judged.scores >= np.float32(assessment.figures.score_threshold)
    cases = []
    start = 0
    for i, (scene, rows) in enumerate(zip(truth.scenes, assessment.found.rows)):
        for j in np.flatnonzero(false[start : start + len(rows)]):
            box = rows[j, :4].astype(np.float64)
            text = f"score {rows[j, 4]:.2f}, {_overlap_text(box, scene)}"
            cases.append(Case(i, box, float(rows[j, 4]), text))
        start += len(rows)
    return _worst_first(cases)


def _overlap_text(box: NDArray[np.float64], scene: Scene) -> str:
    most = precision.iou(box[None], scene.faces).max(initial=0)
    if most >= precision.MIN_IOU:
        return "a second box"
    return f"IoU {most:.2f}" if most > 0 else "no face"


def _worst_first(cases: list[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: -case.badness)


# --- Drawing -----------------------------------------------------------------------------------------------


def _sheet(truth: Truth, assessment: Assessment, cases: Sequence[Case]) -> Picture:
    """ROWS x COLUMNS tiles, fewer rows where there are fewer cases."""
    tiles = [_tile(truth, assessment, case) for case in cases[: ROWS * COLUMNS]]
    tiles += [_blank(TILE + STRIP, TILE)] * (-len(tiles) % COLUMNS)
    rows = [np.concatenate(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)]
    return np.concatenate(rows) if rows else _blank(4, TILE * COLUMNS)


def _tile(truth: Truth, assessment: Assessment, case: Case) -> Picture:
    scene = truth.scenes[case.scene]
    x, y, side = _window(case.box)
    tile = _cut(truth.frame(scene), x, y, side)
    scale, corner = TILE / side, np.array([x, y, x, y])
    for box, color in _boxes(truth, assessment, case.scene):
        is_meant = bool(np.array_equal(box, case.box))
        _rectangle(tile, (box - corner) * scale, color, 3 if is_meant else 1)
    strip = _blank(STRIP, TILE)
    _write_text(strip, case.text, 13)
    _write_text(strip, PurePosixPath(scene.image).stem[-36:], 28)
    return np.concatenate([_framed(tile), strip])


def _window(box: NDArray[np.float64]) -> tuple[int, int, int]:
    """Left, top and side of a square round the box."""
    side = max(LEAST_SIDE, round(CONTEXT * float((box[2:] - box[:2]).max())))
    x, y = (box[:2] + box[2:] - side) / 2
    return round(x), round(y), side


def _cut(frame: Picture, x: int, y: int, side: int) -> Picture:
    """A square of TILE pixels; gray where the frame ends."""
    cv2 = media.opencv()
    square = np.full((side, side, 3), OUTSIDE, np.uint8)
    height, width = frame.shape[:2]
    left, top = max(x, 0), max(y, 0)
    right, bottom = max(min(x + side, width), left), max(min(y + side, height), top)
    square[top - y : bottom - y, left - x : right - x] = frame[top:bottom, left:right]
    shrinks = side > TILE
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (TILE, TILE), interpolation=how), np.uint8)


def _boxes(
    truth: Truth, assessment: Assessment, scene: int
) -> Iterator[tuple[NDArray[np.float64], Color]]:
    kept = truth.scenes[scene].kept[truth.widest]
    for face, counts in zip(truth.scenes[scene].faces, kept):
        yield face, FACE if counts else OTHER
    rows = assessment.found.rows[scene]
    for row in rows[rows[:, 4] >= np.float32(assessment.figures.score_threshold)]:
        yield row[:4].astype(np.float64), DETECTION


def _rectangle(tile: Picture, box: NDArray[np.float64], color: Color, line: int) -> None:
    x1, y1, x2, y2 = np.rint(box.clip(-TILE, 2 * TILE)).astype(int).tolist()
    cv2 = media.opencv()
    cv2.rectangle(tile, (x1, y1), (x2, y2), color, line, cv2.LINE_AA)


def _framed(tile: Picture) -> Picture:
    tile[[0, -1]] = tile[:, [0, -1]] = PAPER
    return tile


def _title(text: str, size: float = 0.5) -> Picture:
    strip = _blank(TITLE, TILE * COLUMNS)
    _write_text(strip, text, 20, size)
    return strip


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), PAPER, np.uint8)


def _write_text(picture: Picture, text: str, baseline: int, size: float = 0.38) -> None:
    cv2 = media.opencv()
    # OpenCV's letters are ASCII only.
    plain = text.encode("ascii", "replace").decode()
    where = (4, baseline)
    cv2.putText(picture, plain, where, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
