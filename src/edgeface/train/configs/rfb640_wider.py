"""RFB at 640x480, on from models/rfb640 as the run rfb640_continued left it: for the most part on WIDER FACE.

edgeface train run rfb640_wider --data train-*.tar --teacher version-RFB-640.pth --start rfb640.tmfile -o more
"""

from __future__ import annotations

import dataclasses

from edgeface.train.augment import Augmentation
from edgeface.train.config import Stage
from edgeface.train.configs import rfb320_wider, rfb640

(stage,) = rfb640.config.stages
larger = dataclasses.replace(stage.augmentation, mosaic=0.3, expand=0.1, crop=0.3, min_face=4.0)

config = dataclasses.replace(
    rfb320_wider.config,
    name="rfb640",
    stages=(
        # Quarters, as in rfb640_continued; crops give faces the size that they have at 640x480.
        Stage(
            size=(320, 240),
            epochs=2,
            batch=16,
            augmentation=Augmentation(
                mosaic=0.2, mosaic_sides=(2,), expand=0.05, crop=0.65, max_expand=2.0, min_face=4.0
            ),
        ),
        dataclasses.replace(stage, epochs=1.2, augmentation=larger),
    ),
    learning_rate=1e-3,
    # Its teacher's features are others, as in rfb640.
    distillation=dataclasses.replace(rfb320_wider.config.distillation, features=0.0),
    seed=23,
)
