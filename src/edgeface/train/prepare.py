"""A data set made ready for training: what cannot be learnt is taken out, and counted.

The rule is the one that the Ultra-Light detectors were trained with: a face of less than 10 pixels is no
face to a network of 320x240, and no background either. So it is painted over and its label dropped.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import media
from ..errors import DataError
from .archive import beside, check_absent, new_archive, write_whole
from .painting import paint
from .samples import ANNOTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .archive import Add
    from .samples import Dataset, Sample

    # Of items, what one is called, and how many there are: Console.progress, say.
    Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]

ON_ERROR = ("fail", "skip")
# Of a coordinate in annotations.jsonl: finer than anybody labels.
DECIMALS = 2


@dataclass(frozen=True)
class Options:
    """What prepare does.

    Args:
        min_face: A face whose longer side is less than this in an image stretched to `size` is painted
            over. The longer one: 7 by 10 pixels still overlap the smallest prior, 10 by 10, by 0.7, and
            small faces are scarce.
        size: Width and height that the network is trained at.
        max_side: An image with a longer side is made smaller; None: never.
        quality: Of the JPEG that an image becomes when its pixels change, 1 to 100. Others are kept byte
            for byte.
        on_error: "fail", or "skip" what cannot be used.
    """

    min_face: float = 10.0
    size: tuple[int, int] = (320, 240)
    max_side: int | None = 640
    quality: int = 95
    on_error: str = "fail"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_face) and self.min_face >= 0):
            raise ValueError(f"min_face is {self.min_face}; expected 0 or more")
        if min(self.size) < 1:
            raise ValueError(f"size is {self.size}; expected positive width and height")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max_side is {self.max_side}; expected 1 or more, or None")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; expected 1 to 100")
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error is {self.on_error!r}; expected {' or '.join(ON_ERROR)}")


# What becomes of a label. The first reason that holds is counted.
KEPT = "kept"
INVALID = "invalid"  # says the data set, or a coordinate is not finite
DEGENERATE = "degenerate"  # less than a pixel wide or high
OUTSIDE = "outside"  # less than a pixel of it is in the image
SMALL = "small"
FATES = (KEPT, INVALID, DEGENERATE, OUTSIDE, SMALL)

# Of the counts of a Report, those of images and those of faces; `ignored` and `clipped` are among `kept`.
IMAGE_COUNTS = ("images", "skipped", "painted", "reduced", "without_faces")
FACE_COUNTS = ("faces", *FATES, "ignored", "clipped", "with_landmarks")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A sample as it is written."""

    image: NDArray[np.uint8] | None  # (height, width, 3) BGR; None: the stored bytes are kept
    size: tuple[int, int]  # width, height
    boxes: NDArray[np.float64]  # (N, 4) x1, y1, x2, y2 inside the image
    ignore: NDArray[np.bool_]  # (N,)
    landmarks: NDArray[np.float64]  # (N, 5, 2), NaN where absent
    painted: NDArray[np.float64]  # (M, 4) what was painted over
    counts: Counter[str]


@dataclass
class Report:
    """How many images and faces there were, and what became of them."""

    options: Options
    sources: dict[str, Counter[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list, repr=False)  # those written, as they were

    @property
    def total(self) -> Counter[str]:
        return sum(self.sources.values(), Counter())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

        def counts(counter: Counter[str]) -> dict[str, int]:
            return {name: counter[name] for name in (*IMAGE_COUNTS, *FACE_COUNTS)}

        return {
            "options": asdict(self.options),
            "sources": {name: counts(counter) for name, counter in self.sources.items()},
            "total": counts(self.total),
            "problems": self.problems,
        }


def fates(sample: Sample, options: Options) -> NDArray[np.str_]:
    """(N,) what becomes of each face, from FATES."""
    boxes = sample.boxes.astype(np.float64)
    with np.errstate(invalid="ignore"):
        inside = _clip(boxes, sample.size)
        sides, visible = boxes[:, 2:] - boxes[:, :2], inside[:, 2:] - inside[:, :2]
        at_training = visible * options.size / np.array(sample.size)
        small = (at_training < options.min_face).all(1)
    flagged = np.zeros(len(boxes), np.bool_) if sample.invalid is None else sample.invalid
    bad = flagged | ~np.isfinite(boxes).all(1)
    reasons = [bad, (sides < 1).any(1), (visible < 1).any(1), small]
    return np.select(reasons, [INVALID, DEGENERATE, OUTSIDE, SMALL], KEPT)


def prepare_sample(sample: Sample, options: Options) -> Prepared:
    """Paints over the faces that are too small or invalid, drops bad labels, clips and reduces.

    Raises:
        DataError: The image cannot be decoded, or has another size than its label says.
    """
    stored = sample.read()
    fate = fates(sample, options)
    kept = fate == KEPT
    inside = _clip(sample.boxes.astype(np.float64), sample.size)
    finite = np.isfinite(sample.boxes).all(1)
    hidden = inside[finite & ((fate == SMALL) | (fate == INVALID))]
    painted = paint(stored, hidden, protected=inside[kept & ~sample.ignore])
    image = _reduced(painted, options.max_side)
    size = image.shape[1], image.shape[0]
    factor = np.array(size) / sample.size
    prepared = Prepared(
        image=None if image is stored else image,
        size=size,
        boxes=inside[kept] * np.tile(factor, 2),
        ignore=sample.ignore[kept],
        landmarks=sample.landmarks[kept] * factor,
        painted=hidden * np.tile(factor, 2),
        counts=Counter(fate.tolist()),
    )
    is_face = ~prepared.ignore
    prepared.counts.update(
        {
            "images": 1,
            "painted": int(painted is not stored),
            "reduced": int(image is not painted),
            "without_faces": int(not is_face.any()),
            "faces": len(fate),
            "ignored": int((~is_face).sum()),
            "clipped": int((inside != sample.boxes).any(1)[kept].sum()),
            "with_landmarks": int(np.isfinite(prepared.landmarks).all((1, 2)).sum()),
        }
    )
    return prepared


def _clip(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    return np.clip(boxes, 0, np.tile(size, 2))


def _reduced(image: NDArray[np.uint8], max_side: int | None) -> NDArray[np.uint8]:
    """The same array where it is small enough."""
    height, width = image.shape[:2]
    if max_side is None or max(width, height) <= max_side:
        return image
    factor = max_side / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    cv2 = media.opencv()
    # Every pixel counts in its area's mean: nothing aliases.
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _as_given(items: Iterable[Any], unit: str, total: int) -> Iterable[Any]:  # noqa: ARG001
    return items


def prepare(
    datasets: Sequence[Dataset],
    output: Path,
    options: Options,
    *,
    force: bool = False,
    progress: Progress = _as_given,
) -> Report:
    """Writes data sets as one archive in edgeface's own form, and a report beside it.

    The same input gives the same bytes (with the same version of OpenCV, which encodes the images).

    Args:
        datasets: From open_dataset.
        output: A .tar, or a folder; appears when all is written.
        options: What is dropped.
        force: Replaces an `output` that is there.
        progress: Is given the samples of a data set, "image" and their number, and iterated instead.

    Raises:
        DataError: With `on_error` "fail": an image or label cannot be used. A data set is held out for
            evaluation.
        FileExistsError: The output is there.
        ValueError: The output is one of the data sets or around it, or a data set is given twice.
    """
    _check_datasets(datasets, output)
    check_absent(output, force=force)
    report = Report(options)
    with new_archive(output) as add:
        writer = _Writer(add, report)
        for name, dataset in zip(_source_names(datasets), datasets):
            report.sources[name] = Counter()
            for item in progress(dataset, "image", len(dataset)):
                writer.write_or_skip(name, dataset, item)
        add(ANNOTATIONS, "".join(writer.lines).encode())
    text = json.dumps(report.to_dict(), indent=2) + "\n"
    write_whole(beside(output, "report.json"), text.encode())
    return report


def _check_datasets(datasets: Sequence[Dataset], output: Path) -> None:
    seen = set()
    for dataset in datasets:
        path = dataset.path.resolve()
        if dataset.held_out:
            raise DataError(
                f"{dataset.path}: held out for evaluation (its lines have `wider_keep`); a model trained "
                "on it could not be compared with any other"
            )
        if path in seen:
            raise ValueError(f"{dataset.path} is given twice")
        if output.resolve() in (path, *path.parents):
            raise ValueError(f"the output {output} would overwrite the input {dataset.path}")
        seen.add(path)


def _source_names(datasets: Sequence[Dataset]) -> list[str]:
    """What each is called in the archive and the report: no name twice."""
    names: list[str] = []
    for dataset in datasets:
        path = dataset.path.resolve()
        names.append(_free_name(path.name if path.is_dir() else path.stem, names))
    return names


def _free_name(name: str, taken: Container[str]) -> str:
    path, number = PurePosixPath(name), 2
    while name in taken:
        name = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
        number += 1
    return name


class _Writer:
    """Adds images to an archive, keeps their lines and counts."""

    def __init__(self, add: Add, report: Report) -> None:
        self._add, self._report, self._options = add, report, report.options
        self._taken: set[str] = set()
        self.lines: list[str] = []

    def write_or_skip(self, source: str, dataset: Dataset, item: Sample | DataError) -> None:
        counts = self._report.sources[source]
        try:
            if isinstance(item, DataError):
                raise item
            counts.update(self._write(source, dataset, item))
            self._report.samples.append(item)
        except DataError as error:
            if self._options.on_error == "fail":
                raise
            counts["skipped"] += 1
            self._report.problems.append(str(error))

    def _write(self, source: str, dataset: Dataset, sample: Sample) -> Counter[str]:
        prepared = prepare_sample(sample, self._options)
        image = PurePosixPath(sample.name).relative_to(dataset.root)
        inner = PurePosixPath("images", source, image)
        if prepared.image is None:
            data = sample.encoded.read()
        else:
            inner, data = inner.with_suffix(".jpg"), _encoded(prepared.image, self._options.quality)
        name = _free_name(str(inner), self._taken)
        self._taken.add(name)
        self._add(name, data)
        self.lines.append(json.dumps(_values(name, prepared)) + "\n")
        return prepared.counts


def _encoded(image: NDArray[np.uint8], quality: int) -> bytes:
    cv2 = media.opencv()
    written, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise OSError("OpenCV cannot write a JPEG")
    encoded: bytes = data.tobytes()
    return encoded


def _values(name: str, prepared: Prepared) -> dict[str, Any]:
    """A line of annotations.jsonl."""
    values = {
        "image": name,
        "width": prepared.size[0],
        "height": prepared.size[1],
        "boxes": _x_y_width_height(prepared.boxes),
        "ignore": prepared.ignore.astype(int).tolist(),
        "landmarks": [
            None if np.isnan(points).any() else np.round(points, DECIMALS).ravel().tolist()
            for points in prepared.landmarks
        ],
    }
    if len(prepared.painted):
        values["painted"] = _x_y_width_height(prepared.painted)
    return values


def _x_y_width_height(boxes: NDArray[np.float64]) -> list[list[float]]:
    # The corners are rounded first: x + width is then inside the image as x2 was.
    rounded = np.round(boxes, DECIMALS)
    sides = np.round(rounded[:, 2:] - rounded[:, :2], DECIMALS)
    rows: list[list[float]] = np.concatenate([rounded[:, :2], sides], axis=1).tolist()
    return rows
