"""Five landmarks for our rfb320: heads that look at what it sees, which stays as it is, and so do its faces.

edgeface train run rfb320_landmarks --data train-*.tar --start models/rfb320.tmfile -o rfb320-landmarks

After 2,621 steps (84,000 images, 9 minutes of a core) points are off by .115 of the root of a face's area, on 197 images
that were held out; those of Face-Detector-1MB's RFB by .069 there. Its features were made for faces alone.
"""

from __future__ import annotations

import dataclasses

from edgeface.train.augment import Augmentation
from edgeface.train.config import Distillation, Stage
from edgeface.train.configs import rfb320

config = dataclasses.replace(
    rfb320.config,
    name="rfb320-landmarks",
    landmarks=True,
    learns="landm.",
    stages=(
        Stage(
            size=(320, 240),
            epochs=8,
            batch=32,
            augmentation=Augmentation(mosaic=0.35, expand=0.1, crop=0.3),
        ),
    ),
    learning_rate=4e-3,
    landmark_weight=1.0,
    distillation=Distillation(),
    seed=4,
)
