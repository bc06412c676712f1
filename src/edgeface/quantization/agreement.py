"""How far an int8 network is from the float32 one that it was made from: layer by layer, face by face."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, model
from ..backends import open_backend
from ..evaluation.precision import iou
from ..faces import Faces
from .observing import STORED_LIMIT, Probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ..faces import Face
    from ..graph import Graph, Tensor
    from ..spec import ModelSpec

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]

SAME_IOU = 0.5  # of the boxes of one face
SHOWN_LAYERS = 3  # in a refusal


@dataclass(frozen=True)
class Layer:
    """A value of the int8 network next to the same one in float32."""

    name: str
    kind: str  # of the operator that makes it
    scale: float
    zero_point: int
    sqnr_db: float  # signal to noise, of all roundings up to here; inf where there is no noise
    clipped: float  # share of values beyond the range, 0 to 1


@dataclass(frozen=True)
class FaceErrors:
    """Faces that float32 and int8 find in the calibration pictures, those of one face matched."""

    pictures: int
    counts: tuple[int, int]  # in float32 and in int8
    matched: int
    # Neither near the threshold nor found by the other: in float32 alone, in int8 alone.
    missed: int
    invented: int
    score: float  # mean absolute difference of matched faces
    box: float  # mean distance of corners' coordinates, relative to the size of the face
    landmarks: float | None  # mean distance of points, relative to the size of the face


@dataclass(frozen=True)
class Agreement:
    """On all calibration pictures."""

    layers: tuple[Layer, ...]
    faces: FaceErrors


@dataclass(frozen=True)
class Limits:
    """The most by which int8 may differ, and the least ratio of signal to noise in a layer.

    Released RFB-320 and slim-320 with 100 pictures of WIDER FACE: at most 1% is lost, scores differ by 0.012,
    boxes by 2% and the noisiest layer has 7 dB, whatever the method. Where ranges are so small that AP of hard
    faces falls by 0.02, 10% are lost and scores differ by 0.07.
    """

    lost: float = 0.05  # missed and invented, of the matched and those
    score: float = 0.03
    box: float = 0.03
    landmarks: float = 0.03
    sqnr_db: float = 6.0


# One or two of a hundred faces with a score of 0.6 or more differ by more than this (released RFB-320 and
# slim-320): so near to its threshold, it may be below at one end.
MARGINAL_SCORE = 0.1


def problems(agreement: Agreement, limits: Limits) -> list[str]:
    """What is beyond the limits, each in a sentence; nothing where all is well."""
    faces, found = agreement.faces, []
    if faces.counts[0] == 0:
        found.append(
            "float32 finds no face in the calibration pictures, so none shows that int8 does"
        )
    lost = faces.missed + faces.invented
    if lost > limits.lost * (faces.matched + lost):
        found.append(
            f"int8 misses {faces.missed} faces of float32's {faces.counts[0]} and invents "
            f"{faces.invented}; at most {limits.lost:.0%} may differ"
        )
    for what in ("score", "box", "landmarks"):
        error, limit = getattr(faces, what), getattr(limits, what)
        if error is not None and error > limit:
            found.append(
                f"{what} of matched faces differ by {error:.3f} on average; at most {limit}"
            )
    noisy = [layer for layer in agreement.layers if not layer.sqnr_db >= limits.sqnr_db]
    if noisy:
        found.append(
            f"{len(noisy)} layers have less than {limits.sqnr_db:g} dB of signal over noise"
        )
    return found


def worst_layers(agreement: Agreement) -> list[Layer]:
    """Those with the least signal over noise, the worst first."""

    def ratio(layer: Layer) -> float:
        return -math.inf if math.isnan(layer.sqnr_db) else layer.sqnr_db

    return sorted(agreement.layers, key=ratio)[:SHOWN_LAYERS]


def refusal(agreement: Agreement, limits: Limits) -> list[str]:
    """Lines that say what is beyond the limits, and which layers are noisiest; nothing where all is well."""
    found = [f"disagrees: {problem}" for problem in problems(agreement, limits)]
    worst = (f"{one.kind} '{one.name}' ({one.sqnr_db:.1f} dB)" for one in worst_layers(agreement))
    return [*found, f"noisiest: {', '.join(worst)}"] if found else []


def compare(floats: Graph, integers: Graph, spec: ModelSpec, frames: Iterable[Pixels]) -> Agreement:
    """Both networks on the same frames, in the native engine.

    Args:
        floats: The network in float32.
        integers: The same in int8, its values under the same names.
        spec: Of both.
        frames: (H, W, 3) BGR.
    """
    probes, detectors = [Probe(graph) for graph in (floats, integers)], []
    for graph in (floats, integers):
        runner, _ = open_backend(graph, "native", 1)
        detectors.append(_core.Detector(runner, model.core_spec(spec), _options(spec)))
    noise = {name: _Noise(integers.tensors[name]) for name in probes[0].names}
    pairs = []
    for frame in frames:
        image = _core.preprocess(frame, model.core_spec(spec), "bgr")
        exact, stored = (probe.run(image) for probe in probes)
        for name, sums in noise.items():
            sums.add(exact[name], stored[name])
        whole = (0, 0, frame.shape[1], frame.shape[0])
        one, other = (Faces(found.detect(frame, "bgr", whole)[0]) for found in detectors)
        pairs.append((one, other))
    kinds = {node.output: node.kind for node in integers.nodes}
    layers = tuple(sums.layer(name, kinds[name]) for name, sums in noise.items())
    return Agreement(layers, match(pairs, spec.score_threshold))


def _options(spec: ModelSpec) -> _core.Options:
    return _core.Options(
        score_threshold=spec.score_threshold,
        iou_threshold=spec.iou_threshold,
        nms="hard",
        max_faces=750,
        pre_nms_top_k=5000,
        min_face=0,
    )


class _Noise:
    """Sums over images of one value."""

    def __init__(self, tensor: Tensor) -> None:
        assert tensor.quantization is not None
        self._scale = float(tensor.quantization.scale[0])
        self._zero_point = int(tensor.quantization.zero_point[0])
        self._signal = self._noise = 0.0
        self._clipped = self._count = 0

    def add(self, exact: Floats, stored: NDArray[Any]) -> None:
        error = (stored - np.float32(self._zero_point)) * np.float32(self._scale) - exact
        self._signal += float(np.square(exact).sum(dtype=np.float64))
        self._noise += float(np.square(error).sum(dtype=np.float64))
        # Half a step further is rounded to the last one, and not clipped.
        low, high = (
            (end - self._zero_point) * self._scale
            for end in (-STORED_LIMIT - 0.5, STORED_LIMIT + 0.5)
        )
        self._clipped += int(np.count_nonzero((exact < low) | (exact > high)))
        self._count += exact.size

    def layer(self, name: str, kind: str) -> Layer:
        ratio = self._signal / self._noise if self._noise > 0 else math.inf
        sqnr_db = 10 * math.log10(ratio) if ratio > 0 else -math.inf
        clipped = self._clipped / self._count
        return Layer(name, kind, self._scale, self._zero_point, sqnr_db, clipped)


def match(pairs: Sequence[tuple[Faces, Faces]], score_threshold: float) -> FaceErrors:
    """The faces of every picture in float32 and in int8: each, best first, with what overlaps it most."""
    found = [_partners(*pair) for pair in pairs]
    matched = [(a[i], b[j]) for (a, b), partners in zip(pairs, found) for i, j in partners]
    surely = score_threshold + MARGINAL_SCORE
    lost = [0, 0]
    for pair, partners in zip(pairs, found):
        for end, faces in enumerate(pair):
            alone = np.delete(faces.scores, [partner[end] for partner in partners])
            lost[end] += int(np.count_nonzero(alone > surely))
    points = [_distance(_points(a), _points(b), a) for a, b in matched if a.landmarks is not None]
    return FaceErrors(
        pictures=len(pairs),
        counts=(sum(len(one) for one, _ in pairs), sum(len(other) for _, other in pairs)),
        matched=len(matched),
        missed=lost[0],
        invented=lost[1],
        score=_mean([abs(a.score - b.score) for a, b in matched]),
        box=_mean([float(np.abs(np.subtract(a.box, b.box)).mean()) / _size(a) for a, b in matched]),
        landmarks=_mean(points) if points else None,
    )


def _partners(one: Faces, other: Faces) -> list[tuple[int, int]]:
    """Positions in both."""
    overlaps = iou(np.float64(one.boxes), np.float64(other.boxes))
    partners = []
    for i in range(len(one) if len(other) else 0):
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= SAME_IOU:
            partners.append((i, best))
            overlaps[:, best] = -1  # taken
    return partners


def _points(face: Face) -> NDArray[np.float64]:
    return np.array(face.landmarks)


def _distance(points: NDArray[np.float64], others: NDArray[np.float64], face: Face) -> float:
    return float(np.hypot(*(points - others).T).mean()) / _size(face)


def _size(face: Face) -> float:
    return math.sqrt(max(face.width * face.height, np.finfo(np.float32).tiny))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
