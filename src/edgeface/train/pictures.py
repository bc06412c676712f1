"""Images in memory, and batches drawn from them: the pixels of augmentation, on any device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import cpu, media

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..spec import InputSpec
    from .augment import Part, Plan
    from .samples import Sample

    Progress = Callable[[Iterable[Tensor]], Iterable[Tensor]]

# Each level halves the one before, so that no image is shrunk by more than 2 when it is sampled. Bilinear
# sampling aliases beyond that; up to there it looks as the detector's own resizing does.
_LEVELS = 3


@dataclass(frozen=True)
class Pictures:
    """Every image decoded, in halves and quarters too: (height, width, 3) uint8 BGR."""

    levels: Sequence[Sequence[Tensor]]

    @property
    def bytes(self) -> int:
        return sum(level.numel() for levels in self.levels for level in levels)

    def to(self, device: torch.device) -> Pictures:
        return Pictures([[level.to(device) for level in levels] for levels in self.levels])


def decode_pictures(samples: Sequence[Sample], progress: Progress = iter) -> Pictures:
    """Reads all images; `progress` goes over them as they come.

    Raises:
        DataError: One of them cannot be read.
    """
    with ThreadPoolExecutor(cpu.default_num_threads()) as pool:
        return Pictures(list(progress(pool.map(_pyramid, samples))))


def _pyramid(sample: Sample) -> list[Tensor]:
    cv2 = media.opencv()
    levels = [sample.read()]
    for _ in range(_LEVELS - 1):
        height, width = levels[-1].shape[:2]
        half = (max(1, width // 2), max(1, height // 2))
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return [torch.from_numpy(np.ascontiguousarray(level)) for level in levels]


def placed(pictures: Pictures, device: torch.device) -> Pictures:
    """Where batches are best drawn: on a GPU if they take at most half of its free memory."""
    if device.type == "cuda" and pictures.bytes <= torch.cuda.mem_get_info(device)[0] // 2:
        return pictures.to(device)
    return pictures


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
