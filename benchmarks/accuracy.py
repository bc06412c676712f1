"""WIDER FACE AP easy, medium and hard of models, as edgeface runs them.

    python benchmarks/accuracy.py --data eval-wider-val.tar version-RFB-320.onnx version-slim-320.onnx

DATA is an archive, or the folder it unpacks to, with images and annotations.jsonl. --check compares the
evaluator with a slow one that shares no code with it.
"""

from __future__ import annotations

import argparse
import json
import random
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import machine
import numpy as np
import wider
from tqdm import tqdm

from edgeface import FaceDetector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Rows = list[list[float]]

# The protocol of the published Ultra-Light and RetinaFace figures.
SCORE_THRESHOLD = 0.02
IOU_THRESHOLD = 0.3
MAX_FACES = 750

CONVENTIONS = {"exact": wider.EXACT, "toolbox": wider.TOOLBOX}
INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
CHECKED_PER_IMAGE = 50  # detections: the slow evaluator is very slow


def main() -> None:
    args = arguments()
    cv2.setNumThreads(1)
    archive = wider.Archive(args.data)
    detectors = [open_model(path, args) for path in args.models]
    found = detect_all(archive, detectors, args.opencv_resize)
    rows = []
    print(
        f"{len(archive.scenes)} images           " + "".join(f"{name:^20}" for name in CONVENTIONS)
    )
    for path, detector, detections in zip(args.models, detectors, found):
        if args.check:
            check(archive.scenes, detections)
        ap = {
            name: wider.evaluate(archive.scenes, detections, convention)
            for name, convention in CONVENTIONS.items()
        }
        rows.append(describe(path, detector, args.opencv_resize, ap))
        print(line(rows[-1]))
    if args.json is not None:
        result = {"machine": machine.describe(), "images": len(archive.scenes), "models": rows}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--data", required=True, type=Path, help="archive or folder")
    parser.add_argument("--backend", default="native")
    parser.add_argument("--input-size", type=size, metavar="WxH", help="by default the model's")
    parser.add_argument("--resize", help="stretch or letterbox; by default the model's")
    parser.add_argument(
        "--opencv-resize",
        choices=INTERPOLATIONS,
        help="let OpenCV stretch images to the input instead of edgeface, which is bilinear",
    )
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="compare with a slow evaluator")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    if args.opencv_resize and args.resize == "letterbox":
        parser.error("--opencv-resize stretches; it cannot letterbox")
    return args


def size(text: str) -> tuple[int, int]:
    width, height = text.lower().split("x")
    return int(width), int(height)


def open_model(path: Path, args: argparse.Namespace) -> FaceDetector:
    return FaceDetector(
        path,
        backend=args.backend,
        num_threads=args.num_threads,
        input_size=args.input_size,
        resize="stretch" if args.opencv_resize else args.resize,
        score_threshold=SCORE_THRESHOLD,
        iou_threshold=IOU_THRESHOLD,
        max_faces=MAX_FACES,
        # Every candidate: which of those with equal scores a smaller number keeps would be chance.
        pre_nms_top_k=2**31 - 1,
    )


def detect_all(
    archive: wider.Archive, detectors: Sequence[FaceDetector], interpolation: str | None
) -> list[list[NDArray[np.float32]]]:
    """What each detector finds in every scene: (N, 5) x1, y1, x2, y2, score."""
    found: list[list[NDArray[np.float32]]] = [[] for _ in detectors]
    for scene in tqdm(archive.scenes, unit="image", leave=False):
        frame = archive.frame(scene.image)
        for detector, detections in zip(detectors, found):
            if interpolation is None:
                detections.append(detector.detect(frame).rows[:, :5])
            else:
                detections.append(detect_stretched(detector, frame, INTERPOLATIONS[interpolation]))
    return found


def detect_stretched(
    detector: FaceDetector, frame: NDArray[np.uint8], interpolation: int
) -> NDArray[np.float32]:
    """Detects in what OpenCV makes of the frame: of the input's size, edgeface leaves it as it is."""
    target = detector.spec.input.width, detector.spec.input.height
    rows = detector.detect(cv2.resize(frame, target, interpolation=interpolation)).rows[:, :5]
    scale = frame.shape[1] / target[0], frame.shape[0] / target[1]
    return rows * np.array([*scale, *scale, 1], np.float32)


def describe(
    path: Path, detector: FaceDetector, interpolation: str | None, ap: dict[str, dict[str, float]]
) -> dict[str, Any]:
    used = detector.spec.input
    return {
        "model": path.name,
        "input": [used.width, used.height],
        "backend": str(detector.backend),
        "resize": used.resize
        if interpolation is None
        else f"{used.resize}, OpenCV {interpolation}",
        "ap": ap,
    }


def line(row: dict[str, Any]) -> str:
    figures = "".join(
        "  " + " ".join(f"{row['ap'][name][subset]:.4f}" for subset in wider.SUBSETS)
        for name in CONVENTIONS
    )
    width, height = row["input"]
    about = f"{width}x{height}, {row['backend']}, {row['resize']}"
    return f"{row['model']:22}{figures}  {about}"


# --- The slow evaluator ------------------------------------------------------------------------------
# After the toolbox's description, in plain Python: one detection after the other, faces marked as they are
# found, one threshold after the other.


def check(scenes: Sequence[wider.Scene], found: Sequence[NDArray[np.float32]]) -> None:
    """Fails where the evaluator and the slow one differ, in random scenes and in the real ones."""
    chance = random.Random(1)
    cases = [random_case(chance) for _ in range(200)]
    cases.append((list(scenes), [rows[:CHECKED_PER_IMAGE] for rows in found]))
    for case_scenes, case_found in tqdm(cases, unit="case", leave=False):
        for convention in CONVENTIONS.values():
            got = wider.evaluate(case_scenes, case_found, convention)
            for subset in wider.SUBSETS:
                want = slow_average_precision(case_scenes, case_found, subset, convention)
                # Both add some thousand terms below 1 in float64, in different orders.
                if abs(got[subset] - want) > 1e-11:
                    raise SystemExit(f"{convention}, {subset}: AP {got[subset]}, slow {want}")
    print(f"the slow evaluator agrees in {len(cases)} cases")


def slow_average_precision(
    scenes: Sequence[wider.Scene],
    found: Sequence[NDArray[Any]],
    subset: str,
    convention: wider.Convention,
) -> float:
    scores = [row[4] for rows in found for row in rows.astype(float).tolist()]
    low, high = min(scores, default=0), max(scores, default=0)
    total = 0
    images = []
    for scene, rows in zip(scenes, found):
        kept = scene.kept[subset].tolist()
        total += sum(kept)
        detections = rows.astype(float).tolist()
        for row in detections:
            row[4] = (row[4] - low) / (high - low) if high > low else 1.0
        images.append(slow_image(detections, scene.faces.tolist(), kept, convention.border))
    if convention.thresholds is None:
        thresholds = sorted({level for levels, _, _ in images for level in levels})
    else:
        count = convention.thresholds
        thresholds = [-(1 - (i + 1) / count) for i in range(count)]
    curve = []
    for threshold in thresholds:
        hits = said = 0
        for levels, image_hits, image_said in images:
            reached = bisect_right(levels, threshold)
            hits += image_hits[reached]
            said += image_said[reached]
        curve.append((hits / total, hits / said if said else 0.0))
    return slow_area(curve)


def slow_image(
    detections: Rows, faces: Rows, kept: list[bool], border: int
) -> tuple[list[float], list[int], list[int]]:
    """Scores, negative so that they rise, and how many of the first n detections are hits, and count."""
    taken = [False] * len(faces)
    hits, said = [0], [0]
    for detection in detections:
        overlaps = [slow_iou(detection, face, border) for face in faces]
        best = max(overlaps, default=0.0)
        owner = overlaps.index(best) if best >= wider.MIN_IOU else None
        if owner is not None and not kept[owner]:
            hit, counts = False, False
        else:
            hit, counts = owner is not None and not taken[owner], True
            if hit:
                taken[owner] = True
        hits.append(hits[-1] + hit)
        said.append(said[-1] + counts)
    return [-detection[4] for detection in detections], hits, said


def slow_iou(a: list[float], b: list[float], border: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + border
    height = min(a[3], b[3]) - max(a[1], b[1]) + border
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0] + border) * (box[3] - box[1] + border) for box in (a, b))
    return width * height / (areas - width * height)


def slow_area(curve: list[tuple[float, float]]) -> float:
    """At each recall, the best precision at this recall or beyond."""
    area, best = 0.0, 0.0
    for (recall, precision), (before, _) in reversed(list(zip(curve, [(0.0, 0.0), *curve]))):
        best = max(best, precision)
        area += (recall - before) * best
    return area


def random_case(chance: random.Random) -> tuple[list[wider.Scene], list[NDArray[np.float64]]]:
    """Some scenes with small whole-number boxes and few scores, so that everything ties."""
    scenes, found = [], []
    for i in range(chance.randint(1, 5)):
        count = chance.randint(i == 0, 6)
        faces = np.array([random_box(chance) for _ in range(count)], float).reshape(-1, 4)
        kept = {
            # The first scene keeps its first face: the AP of a subset without faces is undefined.
            name: np.array([(i + j == 0) or chance.random() < 0.6 for j in range(count)], bool)
            for name in wider.SUBSETS
        }
        scenes.append(wider.Scene(f"scene {i}", faces, kept))
        scores = sorted(chance.randint(0, 20) / 20 for _ in range(chance.randint(0, 12)))[::-1]
        rows = [[*random_box(chance), score] for score in scores]
        found.append(np.array(rows, float).reshape(-1, 5))
    return scenes, found


def random_box(chance: random.Random) -> list[int]:
    x, y = chance.randint(0, 6), chance.randint(0, 6)
    return [x, y, x + chance.randint(1, 6), y + chance.randint(1, 6)]


if __name__ == "__main__":
    main()
