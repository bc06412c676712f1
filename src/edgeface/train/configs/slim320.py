"""Slim at 320x240, as rfb320.

edgeface train run slim320 --data train-*.tar --teacher version-slim-320.pth -o slim320

Not run to its end yet.
"""

from __future__ import annotations

import dataclasses

from edgeface.train.configs import rfb320

config = dataclasses.replace(rfb320.config, name="slim320", network="slim")
