"""Many candidates of one face -> one, for several frames at once: the kept set of the core's hard NMS.

Greedy suppression looks at one candidate after the other, which a GPU cannot. Here a block of candidates is
decided at once, as what does not change any more when it is computed again from itself: a candidate is kept
unless a better one that is kept covers it. That has one solution, the greedy one, because the best candidate
is kept for certain, and whoever depends on candidates that are right is right one round later. So a block is
done after as many rounds as its longest chain of candidates, each covered by the one before; for faces a few,
however many there are. Nothing on the host waits for it: rounds are given, and whether they sufficed comes back
with the result.

For K candidates that is K * K / 2 overlaps, as in the worst case one after the other, each computed once, and
memory for BLOCK * K of them.
"""

from __future__ import annotations

import torch

BLOCK = 512


def hard(
    boxes: torch.Tensor, valid: torch.Tensor, iou_threshold: float, rounds: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of (N, K, 4) corners, best first, stay; and in how many rounds something changed, for N frames.

    With as many as there are rounds, more of them are needed. With fewer, the last changed nothing: it is done.

    Args:
        boxes: float32 of any unit.
        valid: (N, K) bool; the others cover nothing and do not stay.
        iou_threshold: A candidate goes when its IoU with a better one that stays exceeds it.
        rounds: How long a chain is followed inside a block; BLOCK suffices always.
    """
    kept = valid.clone()
    most = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    # A coordinate's values lie together, which is several times faster.
    corners = boxes.transpose(1, 2).contiguous()
    for start in range(0, boxes.shape[1], BLOCK):
        end = start + BLOCK
        covers = _covers(corners[:, :, start:end], corners[:, :, start:], iou_threshold)
        # Those that no earlier block has covered.
        alive = kept[:, start:end].clone()
        inside = covers[:, :, : alive.shape[1]].triu(1)
        stays, changes = alive, torch.zeros_like(most)
        for _ in range(rounds):
            before, stays = stays, alive & ~_covered(stays, inside)
            changes += (stays != before).any(dim=1)
        most = torch.maximum(most, changes)
        kept[:, start:end] = stays
        kept[:, end:] &= ~_covered(stays, covers[:, :, BLOCK:])
    return kept, most


def _covers(a: torch.Tensor, b: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """(N, A, B) float32, 1 where the IoU of (N, 4, A) and (N, 4, B) exceeds the threshold, else 0.

    The same operations in the same order as the core's `iou`, so the same bits.
    """
    one, other = a[..., None], b[:, :, None]
    width = torch.minimum(one[:, 2], other[:, 2]).sub_(torch.maximum(one[:, 0], other[:, 0]))
    height = torch.minimum(one[:, 3], other[:, 3]).sub_(torch.maximum(one[:, 1], other[:, 1]))
    shared = width.clamp_(min=0).mul_(height.clamp_(min=0))
    union = (_area(one) + _area(other)).sub_(shared)
    # Where nothing is shared, 0 / 0 is no overlap either.
    return (shared.div_(union) > iou_threshold).float()


def _area(corners: torch.Tensor) -> torch.Tensor:
    sides = (corners[:, 2:] - corners[:, :2]).clamp_(min=0)
    return sides[:, 0] * sides[:, 1]


def _covered(kept: torch.Tensor, covers: torch.Tensor) -> torch.Tensor:
    """(N, B): by how many of the kept, in a product of matrices of zeros and ones; whether by any."""
    return torch.bmm(kept.float()[:, None], covers)[:, 0] > 0
