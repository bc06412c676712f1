"""What a run learns from, told from anything else: a run that goes on must learn from the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from .weights import arrays_of

if TYPE_CHECKING:
    from .batches import Order
    from .blocks import Detector


@dataclass(frozen=True)
class Origin:
    """Images and teacher, as far as it takes to see that they are others."""

    images: int  # in an epoch
    data: str  # digest of their names and sizes, in their order
    teacher: str | None  # digest of its weights; None: there is none

    @classmethod
    def of(cls, order: Order, teacher: Detector | None) -> Origin:
        return cls(len(order), _of_images(order), None if teacher is None else _of_weights(teacher))

    def changes(self, now: Origin) -> list[str]:
        """What is another thing now, for a message."""
        changes = []
        if self.images != now.images:
            changes.append(f"{now.images} images an epoch instead of {self.images}")
        elif self.data != now.data:
            changes.append("other images")
        if self.teacher != now.teacher:
            kind = "another" if self.teacher and now.teacher else "a" if now.teacher else "no"
            changes.append(f"{kind} teacher")
        return changes


def _of_images(order: Order) -> str:
    """By files' names alone: folders may be others on another machine. Labels may be put right in between."""
    digest = hashlib.sha256()
    for index in order.indexes.tolist():
        sample = order.samples[index]
        digest.update(
            f"{PurePath(sample.name).name}\0{sample.size}\0".encode(errors="surrogatepass")
        )
    return digest.hexdigest()


def _of_weights(network: Detector) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays_of(network.state_dict()).items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
