"""RetinaFace with the MobileNet, as Pytorch_Retinaface trains it, with its five landmarks.

edgeface train run retinaface --data train-*.tar --start mobilenetV1X0.25_pretrain.tar -o retinaface

Not run to its end yet.
"""

from __future__ import annotations

from edgeface.train.augment import Augmentation
from edgeface.train.config import Config, Stage

config = Config(
    name="retinaface",
    network="retinaface-mobilenet0.25",
    landmarks=True,
    stages=(Stage(size=(640, 640), epochs=250, batch=32, augmentation=Augmentation()),),
    learning_rate=1e-3,
    schedule="milestones",
    milestones=(190 / 250, 220 / 250),
    negatives=7.0,
    box_weight=2.0,
    landmark_weight=1.0,
    precision="bfloat16",
    compile=True,
)
