"""ncnn, all arithmetic in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import by_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from . import Floats, Heads

PACKAGE = "ncnn"
SUFFIXES = (".param",)
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "no winograd": {"use_winograd_convolution": False},
}
WITHOUT_INT8 = "its PyPI package has no quantiser"
# Its own choice is half precision in places where the CPU has it.
_FULL_PRECISION = dict.fromkeys(
    ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"), False
)


def open_model(path: Path, num_threads: int, options: Mapping[str, Any]) -> Ncnn:
    import ncnn

    net = ncnn.Net()
    for name, value in {"num_threads": num_threads, **_FULL_PRECISION, **options}.items():
        setattr(net.opt, name, value)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ValueError(f"ncnn cannot read {path} and its .bin")
    return Ncnn(ncnn, net)


class Ncnn:
    """An extractor serves for one frame."""

    def __init__(self, ncnn: Any, net: Any) -> None:
        self._ncnn = ncnn
        self._net = net
        self._input = net.input_names()[0]
        self._names = net.output_names()
        self._outputs: list[Any] = []

    def prepare(self, image: Floats) -> Any:
        # A copy: ncnn aligns its channels.
        return self._ncnn.Mat(image[0]).clone()

    def fill(self, prepared: Any) -> None:
        self._image = prepared

    def run(self) -> None:
        with self._net.create_extractor() as extractor:
            extractor.input(self._input, self._image)
            self._outputs = [extractor.extract(name)[1] for name in self._names]

    def heads(self) -> Heads:
        return by_columns([np.array(output) for output in self._outputs])
