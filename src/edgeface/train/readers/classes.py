"""Which classes of a data set for objects in general are faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection

# What public data sets of faces call them.
FACES = ("face", "with_mask", "without_mask", "mask_weared_incorrect", "face_mask", "face_nomask")


def is_face(where: str, name: str, classes: Collection[str] | None) -> bool:
    """Whether an object of this class is a face.

    Args:
        where: For the message.
        name: The object's class.
        classes: Those that are faces; None: those of `FACES`, and no other may occur.

    Raises:
        DataError: `classes` is None and the class is unknown: calling a face background is worse.
    """
    if classes is not None:
        return name in classes
    if name.lower() in FACES:
        return True
    raise DataError(
        f"{where}: is class {name!r} a face? Known are {', '.join(FACES)}; name yours with --classes"
    )
