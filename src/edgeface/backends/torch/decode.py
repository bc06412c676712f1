"""Heads -> candidate faces on the device, best first: what cpp/decode.cpp does, for all priors of all frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ... import _core
from ...model import core_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...spec import ModelSpec

# exp(10) is 22,000 times a prior: no face, and areas still far from overflow.
_MAX_LOG_SCALE = 10.0
_INDEX_BITS = 32


class Candidates(NamedTuple):
    """The best `K` of each frame, in network input pixels; equal scores in the order of their priors."""

    rows: torch.Tensor  # (N, K, 5 or 15) x1 y1 x2 y2 score, and the landmarks' x, y
    valid: torch.Tensor  # (N, K) bool: there are so many
    count: torch.Tensor  # (N,) how many there are in all


class Decoder:
    """Decodes a network's heads; its priors stay on the device."""

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self._heads = spec.heads
        # As the core keeps them: in float32.
        self._threshold = float(np.float32(spec.score_threshold))
        self._variances = tuple(float(np.float32(v)) for v in spec.priors.variances)
        priors = torch.from_numpy(_core.make_priors(core_spec(spec))).to(device)
        self._centres, self._sizes = priors[:, :2], priors[:, 2:]
        size = (spec.input.width, spec.input.height)
        self._input = torch.tensor(size, dtype=torch.float32).to(device)
        # The earlier prior has the larger number.
        self._ranks = torch.arange(len(priors) - 1, -1, -1, device=device)

    def __call__(
        self, heads: Mapping[str, torch.Tensor], min_face: tuple[float, float], count: int
    ) -> Candidates:
        """The best `count`; `min_face` is in input pixels along each axis."""
        scores = self._scores(heads)
        boxes = self._boxes(heads[self._heads.boxes])
        sides = boxes[..., 2:] - boxes[..., :2]
        finite = boxes[..., :2].isfinite().all(2) & sides.prod(2).isfinite()
        large = (sides[..., 0] >= min_face[0]) | (sides[..., 1] >= min_face[1])
        rows = [boxes, scores[..., None]]
        if self._heads.landmarks is not None:
            points = self._points(heads[self._heads.landmarks])
            finite &= points.isfinite().all(2)
            rows.append(points)
        # Not what is below the threshold, nor NaN.
        valid = (scores >= self._threshold) & finite & large
        return self._best(torch.cat(rows, dim=2), scores, valid, count)

    def _best(
        self, rows: torch.Tensor, scores: torch.Tensor, valid: torch.Tensor, count: int
    ) -> Candidates:
        # Floats from 0 on are in the order of their bits; adding 0 makes -0 one of them.
        bits = (scores + 0.0).view(torch.int32).to(torch.int64)
        keys = torch.where(valid, (bits << _INDEX_BITS) | self._ranks, -1)
        best, places = keys.topk(min(count, keys.shape[1]), dim=1)
        chosen = rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))
        return Candidates(chosen, best >= 0, valid.sum(dim=1))

    def _scores(self, heads: Mapping[str, torch.Tensor]) -> torch.Tensor:
        values = heads[self._heads.scores]
        scores = values[..., -1]
        if self._heads.activation == "softmax":
            scores = (scores - values[..., 0] if values.shape[2] == 2 else scores).sigmoid()
        scores = scores.clamp(max=1)
        if self._heads.objectness is not None:
            # A score below 0 is none, and must not become one by a product with 0.
            roots = (scores * heads[self._heads.objectness][..., 0].clamp(0, 1)).sqrt()
            scores = torch.where(scores < 0, scores, roots)
        return scores

    def _boxes(self, offsets: torch.Tensor) -> torch.Tensor:
        if self._heads.encoding == "corners":
            return offsets * self._input.repeat(2)
        centres = self._moved(offsets[..., :2])
        halves = (
            self._sizes
            * (offsets[..., 2:] * self._variances[1]).clamp(max=_MAX_LOG_SCALE).exp()
            / 2
        )
        return torch.cat([centres - halves, centres + halves], dim=2) * self._input.repeat(2)

    def _points(self, offsets: torch.Tensor) -> torch.Tensor:
        points = offsets.unflatten(2, (5, 2))
        if self._heads.encoding != "corners":
            points = self._moved(points.transpose(1, 2)).transpose(1, 2)
        return (points * self._input).flatten(2)

    def _moved(self, offsets: torch.Tensor) -> torch.Tensor:
        """(..., priors, 2) relative to the input."""
        return self._centres + offsets * self._variances[0] * self._sizes
