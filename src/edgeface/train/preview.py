"""A contact sheet of prepared samples: what is learnt, and what was taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import media
from ..draw import BLACK, GREEN, RED
from .prepare import INVALID, SMALL, fates, prepare_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .prepare import Options, Prepared
    from .samples import Sample

# A picture's place on the sheet, in pixels: COLUMNS of them fill a screen.
TILE = (384, 288)
COLUMNS = 5
YELLOW, BLUE = (40, 220, 240), (240, 160, 40)


def contact_sheet(samples: Sequence[Sample], options: Options, count: int) -> NDArray[np.uint8]:
    """`count` of the samples as they were prepared, as one (H, W, 3) BGR picture.

    Green: faces; red: their landmarks; yellow: ignored; blue: what was painted over. Half of them are
    samples where something was, if there are as many; both halves are spread over all the samples.

    Raises:
        DataError: One of them cannot be decoded.
        ValueError: There are none.
    """
    if not samples:
        raise ValueError("there is no image to draw")
    chosen = choose(samples, options, count)
    tiles = [_tile(sample, prepare_sample(sample, options)) for sample in chosen]
    columns = min(COLUMNS, len(tiles))
    blank = np.zeros((TILE[1], TILE[0], 3), np.uint8)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def choose(samples: Sequence[Sample], options: Options, count: int) -> list[Sample]:
    """Which are shown, in their order."""
    painted = [i for i, sample in enumerate(samples) if _is_painted(sample, options)]
    shown = set(_spread(painted, count // 2))
    others = [i for i in range(len(samples)) if i not in shown]
    shown.update(_spread(others, count - len(shown)))
    return [samples[i] for i in sorted(shown)]


def _is_painted(sample: Sample, options: Options) -> bool:
    return bool(np.isin(fates(sample, options), (SMALL, INVALID)).any())


def _spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count`, evenly over all."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def _tile(sample: Sample, prepared: Prepared) -> NDArray[np.uint8]:
    cv2 = media.opencv()
    image = sample.read() if prepared.image is None else prepared.image
    factor = min(np.array(TILE) / prepared.size)
    size = [max(1, round(side * factor)) for side in prepared.size]
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for box, ignored in zip(prepared.boxes * factor, prepared.ignore):
        _rectangle(cv2, picture, box, YELLOW if ignored else GREEN)
    for box in prepared.painted * factor:
        _rectangle(cv2, picture, box, BLUE)
    for x, y in prepared.landmarks[np.isfinite(prepared.landmarks).all((1, 2))].reshape(-1, 2):
        cv2.circle(picture, (round(x * factor), round(y * factor)), 1, RED, -1, cv2.LINE_AA)
    _label(cv2, picture, sample.name.rsplit("/", 1)[-1])
    below, beside = TILE[1] - size[1], TILE[0] - size[0]
    padded: NDArray[np.uint8] = np.pad(picture, ((0, below), (0, beside), (0, 0)))
    return padded


def _rectangle(
    cv2: Any, picture: NDArray[np.uint8], box: NDArray[np.float64], colour: tuple[int, int, int]
) -> None:
    x1, y1, x2, y2 = box.round().astype(int).tolist()
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1, cv2.LINE_AA)


def _label(cv2: Any, picture: NDArray[np.uint8], text: str) -> None:
    place = 3, picture.shape[0] - 5
    for colour, thickness in ((BLACK, 3), ((255, 255, 255), 1)):
        cv2.putText(
            picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, thickness, cv2.LINE_AA
        )
