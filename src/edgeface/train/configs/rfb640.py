"""RFB at 640x480, as rfb320, whose first stages it has at twice the size.

edgeface train run rfb640 --data train-*.tar --teacher version-RFB-640.pth -o rfb640

Not run to its end yet.
"""

from __future__ import annotations

import dataclasses

from edgeface.train.configs import rfb320

config = dataclasses.replace(
    rfb320.config,
    name="rfb640",
    stages=tuple(
        dataclasses.replace(
            stage, size=(2 * stage.size[0], 2 * stage.size[1]), batch=stage.batch // 2
        )
        for stage in rfb320.config.stages
    ),
)
