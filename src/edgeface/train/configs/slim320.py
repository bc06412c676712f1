"""Slim at 320x240, which begins with our rfb320 but for the block in which they differ, and learns from the released RFB-320.

edgeface train run slim320 --data train-*.tar --teacher version-RFB-320.pth --start models/rfb320.tmfile -o slim320

RFB-320 is a better teacher than slim-320, and rfb320's layers see what its layers see already. After 3,541 steps (57,000
images, 1.6 hours of a third of a core) AP on 202 images of WIDER FACE val is .828 easy, .716 medium, .467 hard; of the
released slim-320 it is .829, .724, .510. `models/slim320-curves.png` shows the run; its rate rises once, where `--hours` was raised.
"""

from __future__ import annotations

import dataclasses

from edgeface.train.config import Distillation
from edgeface.train.configs import rfb320_continued

config = dataclasses.replace(
    rfb320_continued.config,
    name="slim320",
    network="slim",
    learning_rate=1.2e-3,
    # One 3x3 cannot see what a receptive field block sees: of level 0's features half stays out of reach, so heads count more.
    distillation=Distillation(features=4.0, scores=2.0),
    seed=2,
)
