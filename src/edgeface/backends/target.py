"""What a network runs on, and in what precision."""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """A device by the name that PyTorch gives it, as "cuda" or "cuda:1"; `half` is 16-bit floats."""

    device: str = "cpu"
    half: bool = False

    def __str__(self) -> str:
        return f"{self.device} in {'half precision' if self.half else 'float32'}"


CPU = Target()
