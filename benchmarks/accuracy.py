"""WIDER FACE AP of models under both conventions, with edgeface's own resize and with OpenCV's.

    python benchmarks/accuracy.py --data eval-wider-val.tar version-RFB-320.onnx version-slim-320.onnx

`edgeface eval` has all other figures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import machine
import numpy as np
from tqdm import tqdm

from edgeface import Faces, evaluation

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}


def main() -> None:
    args = arguments()
    cv2.setNumThreads(1)
    with evaluation.open_truth(args.data) as truth:
        candidates = [
            with_resize(resize, evaluation.open_model(path, path.name, **options(resize, args)))
            for path in args.models
            for resize in args.resize
        ]
        found = evaluation.find_all(truth, candidates, lambda scenes: tqdm(scenes, leave=False))
        rows = []
        print(" " * 64 + "".join(f"{name:^22}" for name in evaluation.CONVENTIONS))
        for candidate, one in zip(candidates, found):
            ap = {
                name: figures_of(evaluation.assess(truth, candidate, one, convention))
                for name, convention in evaluation.CONVENTIONS.items()
            }
            rows.append(describe(candidate, ap))
            print(line(rows[-1]))
    if args.json is not None:
        result = {"machine": machine.describe(), "images": len(truth.scenes), "models": rows}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--data", required=True, type=Path, help="as of edgeface eval")
    parser.add_argument("--backend", default="native")
    parser.add_argument(
        "--resize",
        nargs="+",
        choices=["stretch", "letterbox", *INTERPOLATIONS],
        default=["stretch"],
        help="edgeface's, or how OpenCV stretches images to the input",
    )
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def options(resize: str, args: argparse.Namespace) -> dict[str, Any]:
    own = "stretch" if resize in INTERPOLATIONS else resize
    return {"resize": own, "backend": args.backend, "num_threads": args.num_threads}


def with_resize(resize: str, candidate: evaluation.Candidate) -> evaluation.Candidate:
    """OpenCV makes the frame of the input's size, which edgeface leaves as it is."""
    if resize not in INTERPOLATIONS:
        return candidate
    width, height = candidate.input_size

    def detect(frame: NDArray[np.uint8]) -> Faces:
        resized = cv2.resize(frame, (width, height), interpolation=INTERPOLATIONS[resize])
        rows = candidate.detect(resized).rows[:, :5]
        scale = frame.shape[1] / width, frame.shape[0] / height
        return Faces(rows * np.array([*scale, *scale, 1], np.float32))

    return replace(candidate, detect=detect, resize=f"stretch, OpenCV {resize}")


def figures_of(assessment: evaluation.Assessment) -> dict[str, float | None]:
    return {name: subset.ap for name, subset in assessment.figures.subsets.items()}


def describe(
    candidate: evaluation.Candidate, ap: dict[str, dict[str, float | None]]
) -> dict[str, Any]:
    return {
        "model": candidate.name,
        "input": list(candidate.input_size),
        "backend": candidate.backend,
        "resize": candidate.resize,
        "ap": ap,
    }


def line(row: dict[str, Any]) -> str:
    figures = (
        " ".join("  -   " if value is None else f"{value:.4f}" for value in subsets.values())
        for subsets in row["ap"].values()
    )
    width, height = row["input"]
    about = f"{width}x{height}, {row['backend']}, {row['resize']}"
    return f"{row['model']:22}{about:42}" + "  ".join(figures)


if __name__ == "__main__":
    main()
