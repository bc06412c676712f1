"""The five steps of a detect on one device: what the core's Detector does, for several frames at once."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ... import _core
from . import nms
from .decode import Decoder
from .preprocess import Preprocess, cut, upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...detector import Options
    from ...frames import Frame
    from ...spec import ModelSpec
    from .preprocess import View
    from .runner import Runner

# At least so many candidates cross to the host, after so many rounds of NMS, whatever a frame has: asking first
# would be another wait for the device. Where they do not suffice, decode and NMS run again with more, and so they
# begin with the next frame. In six photographs the released networks have 23 to 1,484 candidates, and what stays
# changes in one or two rounds; with a threshold of 0.02 there are thousands, and up to 54 rounds.
_CANDIDATES = 256
_ROUNDS = 8


class Detector:
    """Threads that share one take turns."""

    def __init__(
        self, runner: Runner, spec: ModelSpec, options: Options, core_options: _core.Options
    ) -> None:
        self._runner = runner
        self._spec = spec
        self._options = options
        self._core_options = core_options
        self._decode = Decoder(spec, options.pre_nms_top_k, runner.device)
        self._most = spec.priors.count(spec.input.width, spec.input.height)
        self._candidates = min(_CANDIDATES, self._most)
        self._rounds = _ROUNDS
        self._preprocess: Preprocess | None = None
        self._geometry: tuple[object, ...] | None = None
        self._lock = threading.Lock()

    def detect(
        self, frames: Sequence[Frame], region: tuple[int, int, int, int]
    ) -> tuple[list[NDArray[np.float32]], tuple[float, float, float]]:
        """The faces' rows of each frame, in frame pixels, and the milliseconds that they took in all.

        Frames are of one size and kind; `region` is the x, y, width, height that is looked at in each.
        """
        views = [cut(frame.pixels, frame.channels, region, frame.chroma) for frame in frames]
        with self._lock, self._runner.running():
            clock = _Clock(self._runner.device)
            preprocess = self._fitted(views[0])
            images = preprocess(upload(views, self._runner.device))
            clock.mark()
            heads = self._runner.heads(images)
            clock.mark()
            region_in = _Region(region, frames[0].reduction, preprocess.scale)
            found = self._faces(heads, region_in.in_input(self._options.min_face))
            rows = [region_in.placed(faces) for faces in found]
            clock.mark()
            return rows, clock.milliseconds()

    def _fitted(self, view: View) -> Preprocess:
        if self._preprocess is None or self._geometry != view.geometry:
            self._preprocess = Preprocess(view, self._spec.input, self._runner.device)
            self._geometry = view.geometry
        return self._preprocess

    def _faces(
        self, heads: dict[str, torch.Tensor], min_face: tuple[float, float]
    ) -> list[NDArray[np.float32]]:
        """Best first, in network input pixels."""
        while True:
            found = self._found(heads, min_face).cpu().numpy()
            count, changes = found[:, -1, :2].max(axis=0).astype(int)
            candidates, rounds = self._candidates, self._rounds
            self._candidates = _room(candidates, count, _CANDIDATES, self._most)
            if count > candidates:
                continue
            # A round in which nothing changes is the proof.
            self._rounds = _room(rounds, changes + 1, _ROUNDS, nms.BLOCK)
            if changes < rounds:
                parts = zip(found[:, :-1, :-1], found[:, :-1, -1] > 0)
                return [self._chosen(rows, valid) for rows, valid in parts]

    def _found(self, heads: dict[str, torch.Tensor], min_face: tuple[float, float]) -> torch.Tensor:
        """Candidates' rows and whether each stays; in the last row how many there are, and NMS's changes.

        One tensor, (N, candidates + 1, 6 or 16), as each copy to the host waits for the device.
        """
        rows, valid, count = self._decode(heads, min_face, self._candidates)
        changes = torch.zeros_like(count)
        if self._options.nms == "hard":
            threshold = float(np.float32(self._spec.iou_threshold))
            valid, changes = nms.hard(rows[..., :4], valid, threshold, self._rounds)
        told = rows.new_zeros(len(rows), 1, rows.shape[2] + 1)
        told[:, 0, 0] = count
        told[:, 0, 1] = changes
        return torch.cat([torch.cat([rows, valid[..., None]], dim=2), told], dim=1)

    def _chosen(self, rows: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The kinds of NMS that go from face to face end on the host."""
        faces = rows[valid]
        if self._options.nms == "hard":
            return faces[: self._options.max_faces]
        return _core.non_max_suppression(faces, self._core_options)


def _room(now: int, used: int, least: int, most: int) -> int:
    """What to provide next where `used` were needed: grows to suffice, and shrinks by half where a quarter would."""
    if used > now:
        return min(most, 1 << (int(used) - 1).bit_length())
    return max(min(least, most), now // 2) if 4 * used <= now else now


class _Region:
    """The part of a frame that was looked at, in float32 as the core computes it."""

    def __init__(
        self,
        region: tuple[int, int, int, int],
        reduction: tuple[float, float],
        scale: NDArray[np.float32],
    ) -> None:
        # In the pixels that the caller sees.
        seen = np.array(reduction, np.float32)
        x, y, width, height = map(np.float32, region)
        self._low = np.array([x, y], np.float32) * seen
        self._high = np.array([x + width, y + height], np.float32) * seen
        self._scale = scale * seen

    def in_input(self, side: float) -> tuple[float, float]:
        """A side in frame pixels along each axis of the network's input."""
        across, down = np.float32(side) / self._scale
        return float(across), float(down)

    def placed(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows in frame pixels; boxes end at the region's edges, landmarks may lie outside."""
        coordinates = np.delete(faces, 4, axis=1).reshape(len(faces), faces.shape[1] // 2, 2)
        points = coordinates * self._scale + self._low
        points[:, :2] = np.clip(points[:, :2], self._low, self._high)
        has_area = (points[:, 0] < points[:, 1]).all(axis=1)
        # Landmarks may have gone beyond all floats on the way.
        kept = has_area & np.isfinite(points).all(axis=(1, 2))
        rows = faces.copy()
        rows[:, :4] = points[:, :2].reshape(-1, 4)
        rows[:, 5:] = points[:, 2:].reshape(len(faces), faces.shape[1] - 5)
        placed: NDArray[np.float32] = rows[kept]
        return placed


class _Clock:
    """Milliseconds between marks; a GPU keeps its own time and is not waited for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        if self._device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)

    def milliseconds(self) -> tuple[float, float, float]:
        if self._device.type == "cuda":
            self._marks[-1].synchronize()
            spans = [a.elapsed_time(b) for a, b in zip(self._marks, self._marks[1:])]
        else:
            spans = [(b - a) * 1000 for a, b in zip(self._marks, self._marks[1:])]
        preprocess, run, decode = spans
        return preprocess, run, decode
