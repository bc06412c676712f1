"""RFB at 640x480, which begins with our rfb320 and learns from the released RFB-640 as well as from the labels.

edgeface train run rfb640 --data train-*.tar --teacher version-RFB-640.pth --start models/rfb320.tmfile -o rfb640

The teacher's features are others than RFB-320's, which rfb320 has learnt: following them would begin from nothing again.
"""

from __future__ import annotations

import dataclasses

from edgeface.train.augment import Augmentation
from edgeface.train.config import Distillation, Stage
from edgeface.train.configs import rfb320

config = dataclasses.replace(
    rfb320.config,
    name="rfb640",
    stages=(
        Stage(
            size=(640, 480),
            epochs=12,
            batch=8,
            augmentation=Augmentation(mosaic=0.45, expand=0.05, crop=0.25),
        ),
    ),
    learning_rate=1e-3,
    distillation=Distillation(scores=2.0),
    seed=3,
)
