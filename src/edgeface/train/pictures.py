"""Images in memory, and batches drawn from them: the pixels of augmentation, on any device."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import cpu, media

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..spec import InputSpec
    from .augment import Part, Plan
    from .samples import Sample

    Progress = Callable[[Iterable[Tensor]], Iterable[Tensor]]

# Each level halves the one before, so that no image is shrunk by more than 2 when it is sampled. Bilinear
# sampling aliases beyond that; up to there it looks as the detector's own resizing does.
_LEVELS = 3


@dataclass(frozen=True)
class Pictures:
    """Every image, in halves and quarters too: (height, width, 3) uint8 BGR."""

    levels: Sequence[Sequence[Tensor]]

    @property
    def are_decoded(self) -> bool:
        """Whether they are in memory; otherwise each is read again whenever a batch shows it."""
        return not isinstance(self.levels, _OnDemand)

    def to(self, device: torch.device) -> Pictures:
        return Pictures([[level.to(device) for level in levels] for levels in self.levels])


def decode_pictures(samples: Sequence[Sample], progress: Progress = iter) -> Pictures:
    """Reads all images; `progress` goes over them as they come.

    Raises:
        DataError: One of them cannot be read.
    """
    with ThreadPoolExecutor(cpu.default_num_threads()) as pool:
        return Pictures(list(progress(pool.map(_pyramid, samples))))


class _OnDemand(Sequence[Sequence[Tensor]]):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        return _pyramid(self._samples[index])


def open_pictures(
    samples: Sequence[Sample],
    device: torch.device,
    progress: Progress = iter,
    *,
    memory: float | None = None,
) -> Pictures:
    """All images decoded, where batches are best drawn; where they would take too much, each as it is drawn.

    Args:
        samples: Whose images.
        device: What trains. They go to a GPU if they take at most half of its free memory.
        progress: Goes over them as they are decoded.
        memory: In bytes, of which at most half is for them; None: this machine's.

    Raises:
        DataError: One of them cannot be read. One that is not decoded yet raises it when it is drawn.
    """
    if decoded_bytes(samples) > (_memory() if memory is None else memory) / 2:
        return Pictures(_OnDemand(samples))
    decoded = decode_pictures(samples, progress)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return decoded.to(device) if decoded_bytes(samples) <= free // 2 else decoded
    return decoded


def decoded_bytes(samples: Iterable[Sample]) -> int:
    """What all levels of their images take, but for what rounding halves leaves out."""
    return sum(
        3 * w * h >> 2 * level for (w, h) in (s.size for s in samples) for level in range(_LEVELS)
    )


def _memory() -> float:
    """This machine's, in bytes; endless where it does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return math.inf
    return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


def _pyramid(sample: Sample) -> list[Tensor]:
    cv2 = media.opencv()
    levels = [sample.read()]
    for _ in range(_LEVELS - 1):
        height, width = levels[-1].shape[:2]
        half = (max(1, width // 2), max(1, height // 2))
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return [torch.from_numpy(np.ascontiguousarray(level)) for level in levels]


def draw(pictures: Pictures, plans: Sequence[Plan], spec: InputSpec) -> Tensor:
    """(N, 3, height, width) float32 as the network wants it, in channels-last order."""
    device = pictures.levels[0][0].device
    fill = torch.from_numpy(np.stack([plan.fill for plan in plans])).round().to(torch.uint8)
    canvas = fill[..., None, None].repeat(1, 1, spec.height, spec.width).to(device)
    for picture, plan in zip(canvas, plans):
        for part in plan.parts:
            x1, y1, x2, y2 = part.target
            picture[:, y1:y2, x1:x2] = _part(pictures, part)
    colour = np.stack([plan.colour for plan in plans])
    if spec.channels == "rgb":
        colour = np.ascontiguousarray(colour[:, ::-1])
    matrix = torch.from_numpy(colour).to(device)
    pixels = matrix[..., :3] @ canvas.flatten(2).float()
    pixels.add_(matrix[..., 3:]).clamp_(0, 255)
    pixels.sub_(pixels.new_tensor(spec.mean)[:, None]).mul_(pixels.new_tensor(spec.scale)[:, None])
    shaped = pixels.unflatten(2, (spec.height, spec.width))
    return shaped.contiguous(memory_format=torch.channels_last)


def _part(pictures: Pictures, part: Part) -> Tensor:
    """(3, height, width): that rectangle of the image at the size of its target."""
    x1, y1, x2, y2 = part.source
    width, height = part.target[2] - part.target[0], part.target[3] - part.target[1]
    shrink = min((x2 - x1) / width, (y2 - y1) / height)
    levels = pictures.levels[part.index]
    # By the side that shrinks less: the other one may alias a little more, detail is not lost.
    level = min(len(levels) - 1, max(0, int(np.floor(np.log2(max(shrink, 1.0))))))
    source = levels[level]
    rows, columns = source.shape[0] / levels[0].shape[0], source.shape[1] / levels[0].shape[1]
    top, left = round(y1 * rows), round(x1 * columns)
    bottom, right = max(top + 1, round(y2 * rows)), max(left + 1, round(x2 * columns))
    cut = source[top:bottom, left:right].permute(2, 0, 1)[None]
    if cut.is_cuda:  # PyTorch resizes no uint8 there
        cut = cut.float()
    made = functional.interpolate(cut, (height, width), mode="bilinear", align_corners=False)
    made = made.round() if made.is_floating_point() else made
    return made[0].flip(2) if part.mirrored else made[0]
