"""Heads -> candidate faces on the device, best first: what cpp/decode.cpp does, for several frames at once."""

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
    """The `K` of each frame with the best scores; equal ones in the order of their priors."""

    rows: (
        torch.Tensor
    )  # (N, K, 5 or 15) x1 y1 x2 y2 score, and the landmarks' x, y, in input pixels
    valid: torch.Tensor  # (N, K) bool: those that are candidates
    count: (
        torch.Tensor
    )  # (N,) how many reach the threshold in all: with more than there is room for, some lack


class Decoder:
    """Decodes a network's heads; its priors stay on the device."""

    def __init__(self, spec: ModelSpec, top_k: int, device: torch.device) -> None:
        self._heads = spec.heads
        self._top_k = top_k
        # As the core keeps them: in float32.
        self._threshold = float(np.float32(spec.score_threshold))
        self._variances = tuple(float(np.float32(v)) for v in spec.priors.variances)
        self._priors = torch.from_numpy(_core.make_priors(core_spec(spec))).to(device)
        size = (spec.input.width, spec.input.height)
        self._input = torch.tensor(size, dtype=torch.float32).to(device)
        # The earlier prior has the larger number.
        self._ranks = torch.arange(len(self._priors) - 1, -1, -1, device=device)

    def __call__(
        self, heads: Mapping[str, torch.Tensor], min_face: tuple[float, float], room: int
    ) -> Candidates:
        """The best `top_k` of those that there is room for; `min_face` is in input pixels along each axis."""
        scores = self._scores(heads)
        reaches = scores >= self._threshold  # NaN does not
        keys, places = self._keys(scores, reaches).topk(min(room, scores.shape[1]), dim=1)

        def chosen(values: torch.Tensor) -> torch.Tensor:
            return _gathered(values, places)

        # Most priors are background: only what is left is decoded.
        priors = self._priors[places]
        boxes = self._boxes(chosen(heads[self._heads.boxes]), priors)
        rows = [boxes, chosen(scores[..., None])]
        sides = boxes[..., 2:] - boxes[..., :2]
        large = (sides[..., 0] >= min_face[0]) | (sides[..., 1] >= min_face[1])
        # The area, too: NMS would divide an infinite one by itself.
        valid = (keys >= 0) & large & boxes[..., :2].isfinite().all(2) & sides.prod(2).isfinite()
        if self._heads.landmarks is not None:
            points = self._points(chosen(heads[self._heads.landmarks]), priors)
            valid &= points.isfinite().all(2)
            rows.append(points)
        rows, valid = self._best(torch.cat(rows, dim=2), valid, keys)
        return Candidates(rows, valid, reaches.sum(dim=1))

    def _keys(self, scores: torch.Tensor, reaches: torch.Tensor) -> torch.Tensor:
        """Whole numbers in the order of scores, then of priors; -1 for what does not reach the threshold."""
        # Floats from 0 on are in the order of their bits; adding 0 makes -0 one of them.
        bits = (scores + 0.0).view(torch.int32).to(torch.int64)
        return torch.where(reaches, (bits << _INDEX_BITS) | self._ranks, -1)

    def _best(
        self, rows: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if rows.shape[1] <= self._top_k:
            return rows, valid
        best, places = torch.where(valid, keys, -1).topk(self._top_k, dim=1)
        return _gathered(rows, places), best >= 0

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

    def _boxes(self, offsets: torch.Tensor, priors: torch.Tensor) -> torch.Tensor:
        if self._heads.encoding == "corners":
            return offsets * self._input.repeat(2)
        centres = self._moved(offsets[..., :2], priors)
        growth = (offsets[..., 2:] * self._variances[1]).clamp(max=_MAX_LOG_SCALE).exp()
        halves = priors[..., 2:] * growth / 2
        return torch.cat([centres - halves, centres + halves], dim=2) * self._input.repeat(2)

    def _points(self, offsets: torch.Tensor, priors: torch.Tensor) -> torch.Tensor:
        points = offsets.unflatten(2, (5, 2))
        if self._heads.encoding != "corners":
            points = self._moved(points, priors[:, :, None])
        return (points * self._input).flatten(2)

    def _moved(self, offsets: torch.Tensor, priors: torch.Tensor) -> torch.Tensor:
        """Points relative to the input."""
        return priors[..., :2] + offsets * self._variances[0] * priors[..., 2:]


def _gathered(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(N, P, columns) at (N, K) of P."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))
