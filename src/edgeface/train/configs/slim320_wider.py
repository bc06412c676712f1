"""Slim at 320x240, on from models/slim320 as the run slim320_continued left it: for the most part on WIDER FACE.

edgeface train run slim320_wider --data train-*.tar --teacher version-RFB-320.pth --start slim320.tmfile -o more
"""

from __future__ import annotations

import dataclasses

from edgeface.train.configs import rfb320_wider

config = dataclasses.replace(
    rfb320_wider.config,
    name="slim320",
    network="slim",
    # As in slim320, half of level 0's features stay out of reach.
    distillation=dataclasses.replace(rfb320_wider.config.distillation, features=4.0),
    seed=22,
)
