"""Runs a network on one image a number of times and ends: what arm.py counts.

python -m peers.frames RUNTIME MODEL VARIANT IMAGE.npy FRAMES HEADS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from . import adapter


def main(runtime: str, path: str, variant: str, image: str, frames: str, heads: str) -> None:
    module = adapter(runtime)
    runner = module.open_model(Path(path), 1, module.VARIANTS[variant])
    prepared = runner.prepare(np.load(image))
    runner.fill(prepared)
    # Only twice: what filling costs must not count, and what kernels cost does not depend on values.
    for _ in range(int(frames) - 1):
        runner.run()
    runner.fill(prepared)
    runner.run()
    scores, boxes = runner.heads()
    np.savez(heads, scores=scores, boxes=boxes)


if __name__ == "__main__":
    main(*sys.argv[1:])
