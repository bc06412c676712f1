"""OpenCV's DNN module, with each of its engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import by_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from . import Floats, Heads

PACKAGE = "opencv-python-headless"
SUFFIXES = (".onnx",)
VARIANTS: dict[str, dict[str, Any]] = {
    "new engine": {"engine": "ENGINE_NEW"},
    "classic engine": {"engine": "ENGINE_CLASSIC"},
}
WITHOUT_INT8 = "no quantised .onnx of this network was given"


def open_model(path: Path, num_threads: int, options: Mapping[str, Any]) -> OpenCv:
    import cv2

    cv2.setNumThreads(num_threads)
    return OpenCv(cv2.dnn.readNetFromONNX(str(path), getattr(cv2.dnn, options["engine"])))


class OpenCv:
    """Both heads in one pass."""

    def __init__(self, net: Any) -> None:
        self._net = net
        self._found: Any = ()

    def prepare(self, image: Floats) -> Floats:
        return image

    def fill(self, prepared: Floats) -> None:
        self._image = prepared

    def run(self) -> None:
        # It remembers what it has computed for an input, so every frame needs the input anew.
        self._net.setInput(self._image)
        self._found = self._net.forward(["scores", "boxes"])

    def heads(self) -> Heads:
        return by_columns(self._found)
