"""tmfile v2, the model format of Tengine <-> Graph: fp32, int8 and uint8 networks.

The facts come from files as Tengine 1.5 writes them, and from how it loads and runs them.
"""

from __future__ import annotations

from .reader import read
from .writer import write

__all__ = ["read", "write"]
