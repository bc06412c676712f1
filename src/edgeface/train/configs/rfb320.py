"""RFB at 320x240, which learns from the released RFB-320 as well as from the labels.

edgeface train run rfb320 --data train-*.tar --teacher version-RFB-320.pth -o rfb320

With `--hours 2.1` on one core that it shared with others (393,000 images, 207,000 of them at 160x120) the labels
cost 1.30 (scores) and 1.22 (boxes) at the end, and AP on 202 images of WIDER FACE val is .823 easy, .708 medium, .465 hard;
the teacher's is .838, .743, .550. `models/rfb320` went on from there: rfb320_continued.
"""

from __future__ import annotations

from edgeface.train.augment import Augmentation
from edgeface.train.config import Config, Distillation, Stage

config = Config(
    name="rfb320",
    network="rfb",
    stages=(
        # A quarter of the pixels, so four times the images; crops give faces the size that they have at 320x240.
        Stage(
            size=(160, 120),
            epochs=30,
            batch=32,
            augmentation=Augmentation(
                mosaic=0.2, mosaic_sides=(2,), expand=0.05, crop=0.55, max_expand=2.0
            ),
        ),
        # Faces of these data are large (median 34 px; 10 px in WIDER FACE val): mosaics make small ones of them.
        Stage(
            size=(320, 240),
            epochs=12,
            batch=16,
            augmentation=Augmentation(mosaic=0.45, expand=0.1, crop=0.25),
        ),
    ),
    optimizer="adamw",
    learning_rate=2.5e-3,
    weight_decay=1e-2,
    warm_up=0.01,
    # Its features, too: heads alone say little about most of an image.
    distillation=Distillation(features=4.0),
    precision="bfloat16",
    compile=True,
    repeat={"train-wider": 3},  # the only one of them like WIDER FACE val
)
