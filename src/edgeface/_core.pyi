from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Scale = tuple[float, int]  # scale and zero point; 1 and 0 for float32

class Spec:
    def __init__(
        self,
        *,
        width: int,
        height: int,
        channels: str,
        mean: Sequence[float],
        scale: Sequence[float],
        resize: str,
        strides: Sequence[int],
        min_sizes: Sequence[Sequence[float]],
        grid: str,
        clip: bool,
        variances: Sequence[float],
        scores: str,
        boxes: str,
        landmarks: str,
        encoding: str,
        activation: str,
        objectness: str = ...,
    ) -> None: ...

class Options:
    def __init__(
        self,
        *,
        score_threshold: float,
        iou_threshold: float,
        nms: str,
        max_faces: int,
        pre_nms_top_k: int,
        min_face: float,
        isa: str = ...,
    ) -> None: ...

class Detector:
    def __init__(self, backend: Any, spec: Spec, options: Options) -> None: ...
    def detect(
        self,
        frame: Pixels,
        channels: str,
        region: Sequence[int],
        *,
        chroma: Pixels | None = None,
        reduction: Sequence[float] = ...,
    ) -> tuple[Floats, tuple[float, float, float]]: ...

class Network:
    def __init__(
        self, height: int, width: int, channels: int, *, dtype: str, scale: Scale
    ) -> None: ...
    def conv(
        self,
        name: str,
        data: int,
        *,
        weight: NDArray[Any],
        bias: NDArray[Any],
        stride: Sequence[int],
        dilation: Sequence[int],
        pad: Sequence[int],
        groups: int,
        clamp: Sequence[float],
        output: Sequence[int],
    ) -> int: ...
    def quantized_conv(
        self,
        name: str,
        data: int,
        *,
        weight: NDArray[np.int16],
        bias: NDArray[np.int32],
        weight_scale: Floats,
        stride: Sequence[int],
        dilation: Sequence[int],
        pad: Sequence[int],
        groups: int,
        clamp: Sequence[float],
        output: Sequence[int],
        scale: Scale,
    ) -> int: ...
    def relu(self, name: str, data: int, *, clamp: Sequence[float], scale: Scale) -> int: ...
    def sigmoid(self, name: str, data: int, *, scale: Scale) -> int: ...
    def max_pool(
        self,
        name: str,
        data: int,
        *,
        kernel: Sequence[int],
        stride: Sequence[int],
        pad: Sequence[int],
        size: Sequence[int],
    ) -> int: ...
    def upsample(self, name: str, data: int, *, height: int, width: int) -> int: ...
    def add(self, name: str, a: int, b: int, *, clamp: Sequence[float], scale: Scale) -> int: ...
    def concat(self, name: str, values: Sequence[int], *, axis: str, scale: Scale) -> int: ...
    def rows(self, name: str, data: int, *, columns: int) -> int: ...
    def softmax(self, name: str, data: int, *, scale: Scale) -> int: ...
    def output(self, name: str, value: int) -> None: ...

class Step:
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def chain(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def row_bytes(self) -> int: ...

class Engine:
    def __init__(
        self, network: Network, *, num_threads: int, isa: str, level2_bytes: int | None = None
    ) -> None: ...
    def input(self) -> NDArray[Any]: ...
    def run(self) -> None: ...
    def output(self, name: str) -> NDArray[Any]: ...
    def profile(self, rounds: int) -> list[float]: ...
    @property
    def isa(self) -> str: ...
    @property
    def steps(self) -> list[Step]: ...
    @property
    def arena_bytes(self) -> int: ...

def preprocess(
    frame: Pixels, spec: Spec, channels: str, isa: str = ..., *, chroma: Pixels | None = None
) -> Floats: ...
def make_priors(spec: Spec) -> Floats: ...
def decode(
    scores: Floats,
    boxes: Floats,
    landmarks: Floats | None,
    spec: Spec,
    score_threshold: float,
    min_face: Sequence[float] = ...,
    objectness: Floats | None = ...,
) -> Floats: ...
def non_max_suppression(candidates: Floats, options: Options) -> Floats: ...
def isas() -> list[str]: ...

class Tengine:
    def __init__(self, library: str, model: bytes, *, num_threads: int) -> None: ...
    def input(self) -> NDArray[Any]: ...
    def run(self) -> None: ...
    def output(self, name: str) -> NDArray[Any]: ...
    def input_quantization(self) -> tuple[float, int]: ...
    def output_quantization(self, name: str) -> tuple[float, int]: ...
    @property
    def version(self) -> str: ...
