"""Face detection for cheap ARM boards, and the same call on their x86 host."""

from __future__ import annotations

from .detector import FaceDetector, Timings
from .errors import BackendError, ModelError
from .faces import Face, Faces
from .spec import ModelSpec

__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "Face",
    "FaceDetector",
    "Faces",
    "ModelError",
    "ModelSpec",
    "Timings",
    "__version__",
]
