"""RFB at 640x480, on from models/rfb640 as the run rfb640_continued left it: for the most part on WIDER FACE.

edgeface train run rfb640_wider --data train-*.tar --teacher version-RFB-640.pth --start rfb640.tmfile -o more

After 5,906 steps (72,000 images, 1.7 hours of two thirds of a core; in the first 1,693 the teacher's scores and boxes counted once)
the mean of the weights before and after is `models/rfb640-int8`. On 161 images of WIDER FACE held out AP went from .668 to .681
(.688 after), on 197 held out of all data from .843 to .842 (.835 after). On 202 of WIDER FACE val it went in int8 from .851 easy,
.786 medium, .577 hard to .855, .796, .596 (.858, .799, .600 in float32); the teacher's is .884, .841, .657.
`models/rfb640-wider-curves.png` shows the run.
"""

from __future__ import annotations

import dataclasses

from edgeface.train.configs import rfb320_wider, rfb640_continued

quarters, whole = rfb640_continued.config.stages
# Crops give faces in quarters the size that they have at 640x480.
cropped = dataclasses.replace(
    quarters.augmentation, mosaic=0.2, expand=0.05, crop=0.65, max_expand=2.0
)
larger = dataclasses.replace(
    whole.augmentation, mosaic=0.3, mosaic_sides=(2, 3), expand=0.1, crop=0.3
)

config = dataclasses.replace(
    rfb320_wider.config,
    name="rfb640",
    stages=(
        dataclasses.replace(quarters, epochs=2, augmentation=cropped),
        dataclasses.replace(whole, epochs=1.2, augmentation=larger),
    ),
    learning_rate=1e-3,
    # Its teacher's features are others, as in rfb640.
    distillation=dataclasses.replace(rfb320_wider.config.distillation, features=0.0),
    seed=23,
)
