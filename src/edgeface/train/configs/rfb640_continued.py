"""RFB at 640x480, on from the run rfb640 with its silenced channels: for the most part on quarters of such an input.

edgeface train run rfb640_continued --data train-*.tar --teacher version-RFB-640.pth --start rfb640.tmfile -o more

After 2,448 steps (25,000 quarters and 7,000 whole images, 0.93 hours of two thirds of a core) AP on 202 images of WIDER FACE val went
from .852 easy, .781 medium, .574 hard to .853, .789, .584. The mean of the weights before and after, which on
197 images held out is better than both (.843; .840 and .837), went on in rfb640_wider. `models/rfb640-curves.png` shows both runs;
the second's rate falls once, where `--hours` was cut.
"""

from __future__ import annotations

import dataclasses

from edgeface.train.augment import Augmentation
from edgeface.train.config import Stage
from edgeface.train.configs import rfb640

(stage,) = rfb640.config.stages
smaller = dataclasses.replace(stage.augmentation, mosaic=0.5, mosaic_sides=(2, 3, 4), min_face=4.0)

config = dataclasses.replace(
    rfb640.config,
    stages=(
        # Four times the images: what a network sees of a face does not depend on how large the rest is.
        Stage(
            size=(320, 240),
            epochs=6,
            batch=16,
            augmentation=Augmentation(
                mosaic=0.4, mosaic_sides=(2,), expand=0.1, crop=0.4, min_face=4.0
            ),
        ),
        dataclasses.replace(stage, epochs=1.5, augmentation=smaller),
    ),
    optimizer="muon",
    batch_statistics=False,
    seed=8,
)
