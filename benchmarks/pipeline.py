"""One detect of a 1280x720 frame on one thread, beside the plain Python pipeline that people start from.

    python benchmarks/pipeline.py --model version-RFB-320.onnx --frame group.jpg

MODEL is a released Ultra-Light .onnx, which decodes its boxes itself. First every pipeline must find the same
faces; then they take turns, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import machine
import numpy as np
import onnxruntime
from tqdm import tqdm

from edgeface import FaceDetector, Timings
from edgeface.evaluation.precision import iou
from edgeface.formats import onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

FRAME = 1280, 720
SCORE_THRESHOLD = 0.7
IOU_THRESHOLD = 0.3
# Resizes differ by less than one grey level, which moves boxes a little.
SAME_FACE_IOU = 0.9
WARM_UP_ROUNDS = 20
COLUMNS = (*Timings._fields, "detect")
SEED = "plain Python, file as it is"
CLEAN_SEED = "plain Python, clean network"


class Pipeline(Protocol):
    """From a frame to its faces."""

    name: str

    @property
    def timings(self) -> Timings:
        """Milliseconds of the last detect."""

    def detect(self, frame: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """(N, 5 or more) x1, y1, x2, y2, score of the faces, in the frame's pixels."""


class Edgeface:
    """This package, on one of its backends."""

    def __init__(self, model: Path, backend: str) -> None:
        self.name = f"edgeface, {backend}"
        self._detector = FaceDetector(
            model,
            backend=backend,
            num_threads=1,
            score_threshold=SCORE_THRESHOLD,
            iou_threshold=IOU_THRESHOLD,
        )

    @property
    def timings(self) -> Timings:
        return self._detector.timings

    def detect(self, frame: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        return self._detector.detect(frame).rows


class PlainPython:
    """OpenCV, NumPy and ONNX Runtime as Ultra-Light's published demo puts them together."""

    def __init__(
        self, name: str, network: bytes, decode: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.name = name
        self.timings = Timings(0, 0, 0)
        self._decode = decode
        self._session = onnxruntime.InferenceSession(
            network, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0]

    def detect(self, frame: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        start = perf_counter_ns()
        height, width = self._input.shape[2:]
        pixels = self.prepare(frame, (width, height))
        prepared = perf_counter_ns()
        scores, boxes = self._session.run(["scores", "boxes"], {self._input.name: pixels})
        ran = perf_counter_ns()
        found = self.faces(scores[0], self._decode(boxes[0]), frame.shape[1], frame.shape[0])
        end = perf_counter_ns()
        self.timings = Timings(*(ns / 1e6 for ns in (prepared - start, ran - prepared, end - ran)))
        return found

    @staticmethod
    def prepare(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
        image = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), size)
        # An integer array as mean makes this float64, as in the demo.
        scaled = (image - np.array([127, 127, 127])) / 128
        return np.transpose(scaled, (2, 0, 1))[None].astype(np.float32)

    @staticmethod
    def faces(
        scores: NDArray[np.float32], boxes: NDArray[Any], width: int, height: int
    ) -> NDArray[np.floating[Any]]:
        found = []
        for label in range(1, scores.shape[1]):
            likely = scores[:, label] > SCORE_THRESHOLD
            corners = boxes[likely] * (width, height, width, height)
            rows = np.concatenate([corners, scores[likely, label][:, None]], axis=1)
            found.append(hard_nms(rows))
        return np.concatenate(found)


def hard_nms(rows: NDArray[Any], iou_threshold: float = IOU_THRESHOLD) -> NDArray[Any]:
    """The best row, then the best of those that overlap no earlier one too much, and so on."""
    x1, y1, x2, y2, scores = rows.T[:5]
    areas = (x2 - x1) * (y2 - y1)
    order = np.argsort(-scores)
    kept = []
    while len(order) > 0:
        best, order = order[0], order[1:]
        kept.append(best)
        width = np.minimum(x2[best], x2[order]) - np.maximum(x1[best], x1[order])
        height = np.minimum(y2[best], y2[order]) - np.maximum(y1[best], y1[order])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        order = order[shared / (areas[best] + areas[order] - shared) <= iou_threshold]
    return rows[kept]


@dataclass(frozen=True, eq=False)
class OffsetsDecoder:
    """Corners from offsets, for a network that ends before its decoding."""

    decoding: onnx.Decoding

    def __call__(self, offsets: NDArray[np.float32]) -> NDArray[np.float32]:
        priors, (centre, size) = self.decoding.priors, self.decoding.variances
        centres = priors[:, :2] + offsets[:, :2] * centre * priors[:, 2:]
        halves = priors[:, 2:] * np.exp(offsets[:, 2:] * size) / 2
        return np.concatenate([centres - halves, centres + halves], axis=1)


def main() -> None:
    args = arguments()
    cv2.setNumThreads(1)
    pipelines = open_pipelines(args.model)
    frame = read_frame(args.frame)
    faces = check(pipelines, frame)
    times = measure(pipelines, frame, args.rounds)
    seed = times[[p.name for p in pipelines].index(SEED)]
    rows = [summary(p.name, t, seed) for p, t in zip(pipelines, times)]
    print(
        f"{args.model.name}, {FRAME[0]}x{FRAME[1]}, {faces} faces, {args.rounds} rounds, 1 thread"
    )
    print("ms: median (95th percentile)")
    print(f"{'':28}" + "".join(f"{name:>17}" for name in COLUMNS) + "   seed / this")
    for row in rows:
        print(line(row))
    if args.json is not None:
        result = {
            "machine": machine.describe(),
            "model": args.model.name,
            "frame": FRAME,
            "faces": faces,
            "threads": 1,
            "rounds": args.rounds,
            "pipelines": rows,
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, type=Path, help="a released Ultra-Light .onnx")
    parser.add_argument("--frame", required=True, type=Path, help="a photograph with faces")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def open_pipelines(model: Path) -> list[Pipeline]:
    plain = plain_pipelines(model)
    ours: list[Pipeline] = [Edgeface(model, "native"), Edgeface(model, "onnxruntime")]
    return [*ours, *(open_one() for open_one in plain.values())]


def plain_pipelines(model: Path) -> dict[str, Callable[[], PlainPython]]:
    """What people start from, by name, each opened when it is called."""
    data = model.read_bytes()
    imported = onnx.load(data)
    decoding = imported.decoding
    if decoding is None:
        raise SystemExit(f"{model} does not decode its boxes; expected a released version-*.onnx")
    return {
        SEED: lambda: PlainPython(SEED, data, lambda boxes: boxes),
        CLEAN_SEED: lambda: PlainPython(
            CLEAN_SEED, onnx.write(imported.graph), OffsetsDecoder(decoding)
        ),
    }


def read_frame(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"OpenCV cannot read {path}")
    return cv2.resize(image, FRAME, interpolation=cv2.INTER_AREA)


def check(pipelines: Sequence[Pipeline], frame: NDArray[np.uint8]) -> int:
    """The number of faces; fails where one pipeline finds others than the first."""
    expected, *others = (clipped(pipeline.detect(frame)) for pipeline in pipelines)
    if len(expected) == 0:
        raise SystemExit("no face in the frame; NMS would have nothing to do")
    for pipeline, boxes in zip(pipelines[1:], others):
        overlaps = iou(expected, boxes).max(axis=1, initial=0)
        if len(boxes) != len(expected) or overlaps.min() < SAME_FACE_IOU:
            raise SystemExit(
                f"{pipeline.name} finds {len(boxes)} faces, {pipelines[0].name} {len(expected)}; "
                f"the overlap of the worst pair is {overlaps.min():.3f}"
            )
        print(f"{pipeline.name}: the same faces, IoU {overlaps.min():.3f} or more")
    return len(expected)


def clipped(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Corners inside the frame, where edgeface ends boxes and the demo does not."""
    return np.clip(rows[:, :4].astype(np.float64), 0, (*FRAME, *FRAME))


def measure(
    pipelines: Sequence[Pipeline], frame: NDArray[np.uint8], rounds: int
) -> NDArray[np.float64]:
    """(pipelines, rounds, columns) milliseconds; each round starts with another pipeline."""
    times = np.zeros((len(pipelines), WARM_UP_ROUNDS + rounds, len(COLUMNS)))
    for i in tqdm(range(times.shape[1]), unit="round", leave=False):
        for j in range(len(pipelines)):
            turn = (i + j) % len(pipelines)
            start = perf_counter_ns()
            pipelines[turn].detect(frame)
            detect = (perf_counter_ns() - start) / 1e6
            times[turn, i] = *pipelines[turn].timings, detect
    return times[:, WARM_UP_ROUNDS:]


def summary(name: str, times: NDArray[np.float64], seed: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "name": name,
        "median_ms": dict(zip(COLUMNS, np.median(times, axis=0).tolist())),
        "p95_ms": dict(zip(COLUMNS, np.quantile(times, 0.95, axis=0).tolist())),
        # Of each round, then their median: a slow second hits both.
        "speedup": float(np.median(seed[:, -1] / times[:, -1])),
    }


def line(row: dict[str, Any]) -> str:
    cells = (f"{row['median_ms'][c]:.3f} ({row['p95_ms'][c]:.3f})" for c in COLUMNS)
    return (
        f"{row['name']:28}" + "".join(f"{cell:>17}" for cell in cells) + f"{row['speedup']:13.2f}x"
    )


if __name__ == "__main__":
    main()
