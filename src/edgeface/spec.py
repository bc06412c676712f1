"""What a model was trained with: read beside the model file, checked, written; never guessed by code."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("rgb", "bgr", "gray")
RESIZES = ("stretch", "letterbox")
GRIDS = ("cell", "stride")
ENCODINGS = ("offsets", "corners")
ACTIVATIONS = ("none", "softmax")
