"""FaceDetector: opens a model once, then turns frames into faces."""

from __future__ import annotations

import itertools
import math
import numbers
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core, bundled, fitting, media, model, trim
from .backends import open_backend
from .backends import torch as torch_backend
from .backends.target import Target
from .cpu import affinity_cpus, check_affinity, default_num_threads, pinned
from .errors import ModelError
from .faces import Faces
from .frames import CHANNELS, checked_frame, checked_roi, in_pairs
from .spec import MAX_SIZE, RESIZES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from .backends import Backend, Choice
    from .backends.torch.detector import Detector as DeviceDetector
    from .fitting import Fit
    from .frames import Frame
    from .graph import Graph
    from .spec import ModelSpec

NMS = ("hard", "soft-linear", "soft-gaussian", "blending")
# Frames that run together. A network's values take memory for each: 181 MB in RetinaFace's ResNet-50 at 1280x736,
# counted where most are needed at a time.
BATCH = 8


class Timings(NamedTuple):
    """Milliseconds of one detect, or of a frame of a batch."""

    preprocess: float
    run: float
    decode: float  # with NMS and the way back to frame pixels


class _Running(NamedTuple):
    """A network in use, and its spec."""

    core: _core.Detector | DeviceDetector
    spec: ModelSpec


@dataclass(frozen=True)
class Options:
    """How a detector was asked to work, checked; None stands for what the spec says."""

    backend: str = "auto"
    device: str = "cpu"
    half: bool = False
    num_threads: int | None = None
    affinity: str | Collection[int] | None = None
    input_size: tuple[int, int] | str | None = None
    max_side: int = fitting.MAX_SIDE
    resize: str | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    nms: str = "hard"
    max_faces: int = 750
    pre_nms_top_k: int = 5000
    min_face: float = 0.0
    levels: Sequence[int] | None = None
    channels: str = "auto"

    def __post_init__(self) -> None:
        _check_choice("nms", self.nms, NMS)
        _check_choice("channels", self.channels, CHANNELS)
        _check_target(self.device, self.half)
        if self.resize is not None:
            _check_choice("resize", self.resize, RESIZES)
        _check_number("score_threshold", self.score_threshold, 0, 1)
        _check_number("iou_threshold", self.iou_threshold, 0, 1)
        _check_number("min_face", self.min_face, 0, math.inf)
        _check_count("num_threads", self.num_threads, 1024)
        check_affinity(self.affinity)
        _check_count("max_faces", self.max_faces)
        _check_count("pre_nms_top_k", self.pre_nms_top_k)
        _check_count("max_side", self.max_side, MAX_SIZE)
        if self.levels is not None:
            _check_levels(self.levels)
        if self.input_size is not None and self.input_size != fitting.FRAME:
            _check_size(self.input_size)


class FaceDetector:
    """Finds faces in frames.

    Opening does everything that can fail: it reads and checks the file, finds a backend, builds the
    priors and runs the network once. A detector may be used from several threads, which take turns;
    one for each thread works in parallel. It can be pickled: the copy opens the same file.

    Args:
        path: A .tmfile, .onnx or released .pth, or the name of a model that comes with edgeface, as
            "rfb320-int8" (`edgeface models` lists them). By default the int8 one with the best AP for its
            time. A name has neither suffix nor folder; all else is a file's.
        spec: What the model was trained with, or the file that says so. By default the .json of the
            same name beside the model, the spec inside an ONNX file, or that of a published model.
        backend: "auto", "native", "tengine", "torch", "onnxruntime" or a plug-in's name. "auto" takes the
            first that runs the network and defers to the environment variable EDGEFACE_BACKEND; on "cpu" it
            never takes "torch".
        device: "cpu", or "cuda", "cuda:1" and whatever else PyTorch names, for the backends torch and
            onnxruntime. The first does all of detect there, the other runs the network.
        half: 16-bit floats, on the backend torch: float16, or bfloat16 on a CPU.
        num_threads: By default min(CPUs, cgroup quota, 4), of the CPUs in the affinity mask the fastest
            kind alone: threads of two kinds wait for the slower one.
        affinity: "big" or "little" for the fastest or slowest kind of CPU, or their numbers, as [4, 5]:
            threads run there alone (but for those that Tengine places itself), and so does the thread
            that calls detect, until it returns. By default the system chooses. Linux only.
        input_size: (width, height) of the network's input instead of the file's. Larger finds
            smaller faces and takes longer in proportion. "frame" follows each frame's own size, or its
            roi's, rounded up to the largest stride, and keeps the ratio of its sides unless `resize`
            says otherwise. A new size costs what opening costs; the last four are kept.
        max_side: With "frame", a longer frame is shrunk to this.
        resize: "stretch" or "letterbox", instead of what the model was trained with.
        score_threshold: Faces with at least this score, 0 to 1. By default the spec's.
        iou_threshold: Two boxes that overlap by more are one face, 0 to 1. By default the spec's.
        nms: "hard", "soft-linear", "soft-gaussian" (Bodla et al., 2017) or "blending", which averages
            the boxes of one face.
        max_faces: The most faces returned, best first.
        pre_nms_top_k: The most candidates that NMS looks at, best first.
        min_face: The smallest face wanted, in frame pixels along the longer side of its box. Where it is
            twice the largest prior of a level of the network, that level does not run (see `levels`).
        levels: The strides of the levels of priors that run, as (16, 32), instead of all that `min_face`
            needs. Those give what they give in the whole network.
        channels: What frames are: "bgr", "rgb", "bgra", "rgba" or "gray"; "auto" takes two dimensions
            as gray, three channels as BGR and four as BGRA. Of cameras "yuyv", "uyvy", "nv12", "nv21", "i420"
            and "yv12", taken as BT.601 in limited range, V4L2's default: Y, U and V are resized, and only
            what the network sees is converted. "mjpeg" are JPEG files in memory, decoded by OpenCV or
            Pillow, without a roi no larger than the network needs.

    Raises:
        TypeError, ValueError: An argument is wrong.
        FileNotFoundError: There is no such file.
        ModelError: The file or its spec is damaged, unsupported, or they do not fit each other.
        BackendError: No backend can run it; says why.
        ImportError: `channels` is "mjpeg", and nothing here decodes that.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = bundled.DEFAULT,
        *,
        spec: ModelSpec | str | os.PathLike[str] | None = None,
        backend: str = "auto",
        device: str = "cpu",
        half: bool = False,
        num_threads: int | None = None,
        affinity: str | Collection[int] | None = None,
        input_size: tuple[int, int] | str | None = None,
        max_side: int = fitting.MAX_SIDE,
        resize: str | None = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        nms: str = "hard",
        max_faces: int = 750,
        pre_nms_top_k: int = 5000,
        min_face: float = 0.0,
        levels: Sequence[int] | None = None,
        channels: str = "auto",
    ) -> None:
        options = Options(
            backend=backend,
            device=device,
            half=half,
            num_threads=num_threads,
            affinity=affinity,
            input_size=input_size,
            max_side=max_side,
            resize=resize,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            nms=nms,
            max_faces=max_faces,
            pre_nms_top_k=pre_nms_top_k,
            min_face=min_face,
            levels=levels,
            channels=channels,
        )
        if options.channels == "mjpeg":
            media.check_jpeg()
        self._reopen = (os.fspath(path), spec, options)
        opened = model.load(path, spec)
        if options.input_size is not None and not isinstance(options.input_size, str):
            opened = opened.resized(*options.input_size)
        self._model = replace(opened, spec=_with_options(opened.spec, options))
        self._channels = options.channels
        self._rule = _rule(self._model, options)
        self._largest_input = self._model.spec.input
        if self._rule.size is None:
            side = options.max_side
            self._largest_input = replace(self._largest_input, width=side, height=side)
        self._affinity = affinity_cpus(options.affinity)
        self._num_threads = options.num_threads or default_num_threads(self._affinity)
        self._target = Target(options.device, options.half)
        fit = self._rule.fit(*opened.graph.input_size)
        graph, self._spec = self._fitted(fit)
        with pinned(self._affinity):  # threads stay where the one that started them was
            runner, self._backend = open_backend(
                graph, options.backend, self._num_threads, self._target
            )
            running = self._run(runner, self._spec)
        self._kept: fitting.Kept[_Running] | None = fitting.Kept(self._open)
        self._kept.put(fit, running)
        self._timings = Timings(0.0, 0.0, 0.0)

    @property
    def spec(self) -> ModelSpec:
        """What the model was trained with, with the input size, levels, resize and thresholds in use.

        Where size or levels follow the frame, those of the last detect.
        """
        return self._spec

    @property
    def backend(self) -> Choice:
        """The backend in use (`str()` of it is its name), and why every other one is not."""
        return self._backend

    @property
    def num_threads(self) -> int:
        return self._num_threads

    @property
    def affinity(self) -> tuple[int, ...] | None:
        """The CPUs that threads run on, or None where the system chooses."""
        return None if self._affinity is None else tuple(sorted(self._affinity))

    @property
    def timings(self) -> Timings:
        """Milliseconds of the last detect; zeros before the first."""
        return self._timings

    def detect(
        self,
        frame: NDArray[np.uint8] | tuple[NDArray[np.uint8], ...] | bytes | memoryview,
        *,
        roi: tuple[int, int, int, int] | None = None,
    ) -> Faces:
        """The faces in a frame, best score first; none gives an empty Faces.

        Args:
            frame: (H, W, 3) uint8 in BGR order, or as `channels` says: (H, W) gray, (H, W, 2) YUYV
                and UYVY, (H * 3 / 2, W) NV12 and NV21 or the pair of their planes (H, W) and
                (H / 2, W), the same array of I420 and YV12 without gaps between its rows or the three
                planes (H, W) and twice (H / 2, W / 2), a JPEG's bytes or an array of them. Rows may be
                any distance apart without a copy; pixels that are not packed are copied, and so are U and
                V that come apart.
            roi: x, y, width, height in frame pixels: look only there. Boxes stay in frame pixels
                and end at its edges.

        Raises:
            TypeError, ValueError: The frame or roi is not such.
            ModelError: The network has no such input size, where that follows the frame.
            BackendError: The runtime failed.
        """
        taken, region, fit = self._look(frame, roi)
        return self._detect([taken], region, fit)[0]

    def detect_batch(self, frames: Iterable[NDArray[np.uint8]]) -> list[Faces]:
        """The faces of every frame, in order; frames may differ in size.

        One after the other: each frame already uses all of `num_threads`. On the backend torch, frames of one
        size that follow one another in a list or tuple go through together, at most BATCH of them;
        `timings` are then a frame's share.
        """
        if str(self._backend) != torch_backend.NAME or not isinstance(frames, (list, tuple)):
            # What comes out of a generator may be the same array, filled again.
            return [self.detect(frame) for frame in frames]
        return [
            faces for looks in _batches(map(self._look, frames)) for faces in self._detect(*looks)
        ]

    def _look(
        self, frame: object, roi: tuple[int, int, int, int] | None = None
    ) -> tuple[Frame, tuple[int, int, int, int], Fit]:
        """A frame checked, the region of it that counts, and the network for that."""
        if self._kept is None:
            raise ValueError("the detector is closed")
        largest = self._largest_input if roi is None else None
        taken = checked_frame(frame, self._channels, largest)
        region = checked_roi(roi, taken.size)
        # In pixels that the caller sees, as min_face is.
        width, height = (round(n * factor) for n, factor in zip(region[2:], taken.reduction))
        return taken, region, self._rule.fit(width, height)

    def _detect(
        self, frames: Sequence[Frame], region: tuple[int, int, int, int], fit: Fit
    ) -> list[Faces]:
        """Of frames alike; of one, unless the backend has a detector of its own."""
        kept = self._kept
        if kept is None:
            raise ValueError("the detector is closed")
        with pinned(self._affinity):
            core, self._spec = kept.get(fit)
            if isinstance(core, _core.Detector):
                (frame,) = frames
                rows, spans = core.detect(
                    frame.pixels,
                    frame.channels,
                    region,
                    chroma=frame.chroma,
                    reduction=frame.reduction,
                )
                found = [rows]
            else:
                found, spans = core.detect(list(map(in_pairs, frames)), region)
        decoding = sum(frame.milliseconds for frame in frames)
        preprocess, *rest = (span / len(frames) for span in (spans[0] + decoding, *spans[1:]))
        self._timings = Timings(preprocess, *rest)
        return [Faces(rows) for rows in found]

    def close(self) -> None:
        """Frees the network; detect raises ValueError from then on."""
        self._kept = None

    def _open(self, fit: Fit) -> _Running:
        """Another network of this model, on the same backend."""
        graph, spec = self._fitted(fit)
        runner, _ = open_backend(graph, str(self._backend), self._num_threads, self._target)
        return self._run(runner, spec)

    def _fitted(self, fit: Fit) -> tuple[Graph, ModelSpec]:
        fitted = self._model.resized(fit.width, fit.height)
        return trim.trimmed(fitted.graph, fitted.spec, fit.strides)

    def _run(self, runner: Backend, spec: ModelSpec) -> _Running:
        path, _, options = self._reopen
        core_options = _core_options(spec, options)
        try:
            core = _core.Detector(runner, model.core_spec(spec), core_options)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        # The core has seen that spec and network fit each other.
        own_detector = getattr(runner, "own_detector", None)
        if own_detector is not None:
            return _Running(own_detector(spec, options, core_options), spec)
        return _Running(core, spec)

    def __enter__(self) -> FaceDetector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, self._reopen

    def __repr__(self) -> str:
        size = f"{self._spec.input.width}x{self._spec.input.height}"
        return (
            f"FaceDetector({self._reopen[0]!r}: {size}, {self._backend}, {self._num_threads} thread"
            f"{'' if self._num_threads == 1 else 's'})"
        )


def _reopened(
    path: str, spec: ModelSpec | str | os.PathLike[str] | None, options: Options
) -> FaceDetector:
    return FaceDetector(path, spec=spec, **vars(options))


def _rule(opened: model.Model, options: Options) -> fitting.Rule:
    follows = options.input_size == fitting.FRAME
    strides = options.levels
    if strides is None and not (options.min_face > 0 and trim.can_trim(opened.graph, opened.spec)):
        strides = opened.spec.priors.strides
    return fitting.Rule(
        priors=opened.spec.priors,
        size=None if follows else opened.graph.input_size,
        max_side=options.max_side,
        strides=None if strides is None else tuple(strides),
        min_face=float(options.min_face),
    )


def _with_options(spec: ModelSpec, options: Options) -> ModelSpec:
    resize = options.resize
    if resize is None and options.input_size == fitting.FRAME:
        resize = "letterbox"
    if resize is not None:
        spec = replace(spec, input=replace(spec.input, resize=resize))
    if options.score_threshold is not None:
        spec = replace(spec, score_threshold=float(options.score_threshold))
    if options.iou_threshold is not None:
        spec = replace(spec, iou_threshold=float(options.iou_threshold))
    return spec


def _core_options(spec: ModelSpec, options: Options) -> _core.Options:
    return _core.Options(
        score_threshold=spec.score_threshold,
        iou_threshold=spec.iou_threshold,
        nms=options.nms,
        max_faces=options.max_faces,
        pre_nms_top_k=options.pre_nms_top_k,
        min_face=options.min_face,
        isa=os.environ.get("EDGEFACE_ISA", ""),
    )


def _batches(
    looks: Iterable[tuple[Frame, tuple[int, int, int, int], Fit]],
) -> Iterator[tuple[list[Frame], tuple[int, int, int, int], Fit]]:
    """Frames alike that follow one another, at most BATCH together."""

    def kind(look: tuple[Frame, tuple[int, int, int, int], Fit]) -> object:
        frame, region, fit = look
        return frame.pixels.shape, frame.channels, frame.reduction, region, fit

    for _, alike in itertools.groupby(looks, kind):
        while batch := list(itertools.islice(alike, BATCH)):
            yield [frame for frame, *_ in batch], *batch[0][1:]


def _check_target(device: object, half: object) -> None:
    if not isinstance(device, str):
        raise TypeError(f'device is {device!r}; expected "cpu", "cuda" or "cuda:1"')
    if re.fullmatch(r"[a-z]+(:\d{1,3})?", device, re.ASCII) is None:
        raise ValueError(f'device is {device!r}; expected "cpu", "cuda" or "cuda:1"')
    if not isinstance(half, bool):
        raise TypeError(f"half is {half!r}; expected True or False")


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a number")
    # Not `low <= value <= high` turned round: NaN must fail.
    if not (low <= float(value) <= high and math.isfinite(float(value))):
        raise ValueError(f"{name} is {value}; expected {low} to {high}")


def _check_count(name: str, value: object, most: int = 2**31 - 1) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a whole number")
    if not 1 <= int(value) <= most:
        raise ValueError(f"{name} is {value}; expected 1 to {most}")


def _check_size(size: object) -> None:
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise TypeError(f'input_size is {size!r}; expected (width, height) or "{fitting.FRAME}"')
    for name, value in zip(("input width", "input height"), size):
        _check_count(name, value, MAX_SIZE)


def _check_levels(levels: object) -> None:
    if not isinstance(levels, (tuple, list)):
        raise TypeError(f"levels is {levels!r}; expected strides, as (16, 32)")
    for stride in levels:
        _check_count("a stride in levels", stride)
