"""Ten minutes on a laptop, to see that all of it works; the README has the command."""

from __future__ import annotations

from edgeface.train.augment import Augmentation
from edgeface.train.config import Config, Stage

config = Config(
    name="tiny",
    network="slim",
    # A quarter of the usual pixels, and crops that make up for it.
    stages=(Stage((160, 120), 40, 24, Augmentation(mosaic=0.1, mosaic_sides=(2,), crop=0.5)),),
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=1e-2,
    ema=0.99,
)
