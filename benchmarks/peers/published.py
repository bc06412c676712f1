"""RetinaFace as its published detect.py finds faces, and the same with what has been made faster, one step after another.

Published: float32 pixels less the mean by NumPy, priors computed for every frame in a Python loop, every prior's box
and landmarks decoded, NMS face by face in NumPy. A step of STEPS replaces one of these. A device is "cpu" or "cuda",
of PyTorch; or "core", where ONNX Runtime runs the network and edgeface's C++ core stands for the device.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pipeline

from edgeface import FaceDetector, Timings, _core, model, trim

from . import photographs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeface.graph import Graph
    from edgeface.spec import ModelSpec

TRIM = "trimmed FPN"
STEPS = ("priors once", "preprocessing there", TRIM, "NMS there")
CORE = "core"


def open_pipeline(kind: str, path: str, options: dict[str, Any]) -> pipeline.Pipeline:
    cv2.setNumThreads(1)
    return Detector(path, **options) if kind == "edgeface" else Published(Path(path), **options)


class Detector:
    """This package, its network as large as the frame."""

    def __init__(self, path: str, **options: Any) -> None:
        self.name = "edgeface"
        self._detector = FaceDetector(path, input_size="frame", **options)

    @property
    def timings(self) -> Timings:
        return self._detector.timings

    def detect(self, frame: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        return self._detector.detect(frame).rows


class Published:
    """What detect.py does, on a frame filled up to whole cells of the coarsest level."""

    def __init__(
        self, path: Path, device: str, num_threads: int, steps: int, strides: Sequence[int]
    ) -> None:
        self.name = "published"
        self.timings = Timings(0, 0, 0)
        opened = model.load(path)
        graph, self._spec = opened.graph, opened.spec
        if TRIM in STEPS[:steps]:
            graph, self._spec = trim.trimmed(graph, self._spec, strides)
        self._once, self._there = steps >= 1, steps >= 2
        self._nms_there = steps >= len(STEPS)
        self._priors: Any = None
        engine = Core if device == CORE else Torch
        self._engine: Any = engine(graph, self._spec, num_threads, device)

    def detect(self, frame: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        start = perf_counter()
        image = self._engine.uploaded(frame) if self._there else self._prepared(frame)
        prepared = perf_counter()
        heads = self._engine.run(image)
        ran = perf_counter()
        found: NDArray[np.floating[Any]] = self._faces(*heads)
        end = perf_counter()
        self.timings = Timings(*(1e3 * t for t in (prepared - start, ran - prepared, end - ran)))
        return found

    def _prepared(self, frame: NDArray[np.uint8]) -> Any:
        image = np.float32(frame)
        image -= np.float32(self._spec.input.mean)
        width, height = self._spec.input.width, self._spec.input.height
        sides = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
        return self._engine.moved(np.pad(image, sides).transpose(2, 0, 1)[None])

    def _faces(self, scores: Any, offsets: Any, points: Any) -> NDArray[np.floating[Any]]:
        if self._priors is None or not self._once:
            self._priors = self._engine.moved(priors(self._spec))
        rows = decoded(scores, offsets, points, self._priors, self._spec, self._engine)
        if self._nms_there:
            return self._engine.best(rows)
        found = np.asarray(self._engine.fetched(rows))
        return pipeline.hard_nms(
            found[found[:, 4] > self._spec.score_threshold], self._spec.iou_threshold
        )


def priors(spec: ModelSpec) -> NDArray[np.float32]:
    """(priors, 4) centre and size relative to the input, one after another."""
    width, height = spec.input.width, spec.input.height
    found = []
    for stride, sizes in zip(spec.priors.strides, spec.priors.min_sizes):
        for i, j in product(range(-(-height // stride)), range(-(-width // stride))):
            for size in sizes:
                x, y = (j + 0.5) * stride / width, (i + 0.5) * stride / height
                found += [x, y, size / width, size / height]
    return np.array(found, np.float32).reshape(-1, 4)


def decoded(
    scores: Any, offsets: Any, points: Any, centred: Any, spec: ModelSpec, engine: Any
) -> Any:
    """(priors, 15) corners, score and landmarks, in input pixels; of arrays or tensors."""
    near, far = spec.priors.variances
    centres = centred[:, :2] + offsets[:, :2] * near * centred[:, 2:]
    halves = centred[:, 2:] * engine.exp(offsets[:, 2:] * far) / 2
    marks = [centred[:, :2] + points[:, i : i + 2] * near * centred[:, 2:] for i in range(0, 10, 2)]
    parts = [centres - halves, centres + halves, scores[:, 1:], *marks]
    size = [spec.input.width, spec.input.height]
    return engine.join(parts) * engine.moved(np.float32([*size * 2, 1, *size * 5]))


class Core:
    """ONNX Runtime, and edgeface's C++ core for what a device would do."""

    exp = staticmethod(np.exp)

    def __init__(self, graph: Graph, spec: ModelSpec, num_threads: int, _device: str) -> None:
        self._spec = model.core_spec(spec)
        self._heads = (spec.heads.scores, spec.heads.boxes, spec.heads.landmarks)
        self._runner: Any = open_session(graph, num_threads)
        self._options = photographs.nms_options(spec)
        self._threshold = spec.score_threshold

    @staticmethod
    def join(parts: Sequence[Any]) -> Any:
        return np.concatenate(parts, axis=1)

    @staticmethod
    def moved(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array)

    fetched = moved

    def uploaded(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        return _core.preprocess(frame, self._spec, "bgr")

    def run(self, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        [name] = [source.name for source in self._runner.get_inputs()]
        return [values[0] for values in self._runner.run(list(self._heads), {name: image})]

    def best(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return _core.non_max_suppression(rows[rows[:, 4] > self._threshold], self._options)


def open_session(graph: Graph, num_threads: int) -> Any:
    import onnxruntime

    from edgeface.formats import onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        onnx.write(graph), options, providers=["CPUExecutionProvider"]
    )


class Torch:
    """PyTorch on one of its devices; NMS there is edgeface's, as PyTorch has none."""

    def __init__(self, graph: Graph, spec: ModelSpec, num_threads: int, device: str) -> None:
        import torch

        from .torch_module import TorchModule

        torch.set_num_threads(num_threads)
        torch.set_grad_enabled(False)
        torch.backends.cudnn.benchmark = True
        self.exp = torch.exp
        self._torch, self._spec, self._device = torch, spec, device
        self._module = TorchModule(graph).eval().to(device)
        self._order = [
            graph.outputs.index(name)
            for name in (spec.heads.scores, spec.heads.boxes, spec.heads.landmarks)
        ]
        self._mean = self.moved(np.float32(spec.input.mean)[:, None, None])

    def join(self, parts: Sequence[Any]) -> Any:
        return self._torch.cat(list(parts), 1)

    def moved(self, array: NDArray[Any]) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    @staticmethod
    def fetched(tensor: Any) -> NDArray[Any]:
        fetched: NDArray[Any] = tensor.cpu().numpy()
        return fetched

    def uploaded(self, frame: NDArray[np.uint8]) -> Any:
        image = self.moved(frame).permute(2, 0, 1).float() - self._mean
        height, width = self._spec.input.height, self._spec.input.width
        sides = (0, width - frame.shape[1], 0, height - frame.shape[0])
        return self._torch.nn.functional.pad(image, sides)[None]

    def run(self, image: Any) -> list[Any]:
        outputs = self._module(image)
        return [outputs[i][0] for i in self._order]

    def best(self, rows: Any) -> NDArray[np.floating[Any]]:
        from edgeface.backends.torch import nms

        likely = rows[rows[:, 4] > self._spec.score_threshold]
        ordered = likely[likely[:, 4].argsort(descending=True, stable=True)]
        valid = self._torch.ones(1, len(ordered), dtype=self._torch.bool, device=self._device)
        kept, _ = nms.hard(ordered[None, :, :4], valid, self._spec.iou_threshold, nms.BLOCK)
        return self.fetched(ordered[kept[0]])
