from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import reference
from edgeface import _core

KINDS = ("hard", "soft-linear", "soft-gaussian", "blending")
MANY = 2**31 - 1


def nms(rows, kind="hard", iou_threshold=0.4, *, score_threshold=0.0, top_k=MANY, max_faces=MANY):
    options = _core.Options(
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        nms=kind,
        max_faces=max_faces,
        pre_nms_top_k=top_k,
        min_face=0.0,
    )
    return _core.non_max_suppression(np.float32(rows), options)


def candidates(count, seed, landmarks=False):
    """Boxes of a few faces, each found several times."""
    random = np.random.default_rng(seed)
    faces = random.uniform(0, 600, (max(1, count // 6), 2))
    centre = faces[random.integers(len(faces), size=count)] + random.normal(
        scale=12, size=(count, 2)
    )
    size = random.uniform(30, 90, (count, 2))
    scores = random.uniform(0.3, 1, (count, 1))
    points = [random.uniform(0, 600, (count, 10))] if landmarks else []
    return np.float32(np.hstack([centre - size / 2, centre + size / 2, scores, *points]))


def assert_same(got, want, rows):
    """Equal but for the roundings of float32."""
    assert got.shape == want.shape
    # A soft score is a product of up to len(rows) factors, an averaged value a sum of as many terms; a factor
    # comes from an IoU (17 roundings, see reference.nms) through exp() (2) and is multiplied (1).
    scale = np.abs(rows).max(axis=0)
    assert (np.abs(got - want) <= 20 * (len(rows) + 1) * reference.ROUNDING * scale).all()


@pytest.mark.parametrize("landmarks", [False, True])
@pytest.mark.parametrize("iou_threshold", [0.2, 0.45, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_what_its_definition_says(kind, iou_threshold, landmarks):
    for seed in range(6):
        rows = candidates(60, seed, landmarks)
        options = {"score_threshold": 0.25}
        want = reference.nms(rows, kind, iou_threshold, **options)
        assert 0 < len(want) <= len(rows)
        assert_same(nms(rows, kind, iou_threshold, **options), want, rows)


@given(
    count=st.integers(0, 25),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    iou_threshold=st.floats(0.05, 0.95),
    score_threshold=st.floats(0, 0.5),
    top_k=st.integers(1, 30),
    max_faces=st.integers(1, 30),
)
@settings(max_examples=200, deadline=None)
def test_random_options_give_what_the_definition_says(
    count, seed, kind, iou_threshold, score_threshold, top_k, max_faces
):
    rows = candidates(count, seed)
    options = {"score_threshold": score_threshold, "top_k": top_k, "max_faces": max_faces}
    try:
        want = reference.nms(rows, kind, iou_threshold, **options)
    except reference.TieError:
        assume(False)
    if len(rows):
        assert_same(nms(rows, kind, iou_threshold, **options), want, rows)
    else:
        assert nms(rows, kind, iou_threshold, **options).shape == (0, 5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [5, 15])
def test_nothing_in_nothing_out(kind, columns):
    assert nms(np.zeros((0, columns)), kind).shape == (0, columns)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_box_is_kept_as_it_is(kind):
    row = np.float32([[10, 20, 30, 50, 0.75, *range(10)]])
    assert_array_equal(nms(row, kind), row)


@pytest.mark.parametrize("kind", ["hard", "blending"])
def test_identical_boxes_become_one(kind):
    rows = np.tile(np.float32([[8, 8, 24, 40, 0.5]]), (8, 1))
    # The mean of 8 equal values with 8 equal weights: 7 sums of each, a quotient, a product.
    assert_allclose(nms(rows, kind), rows[:1], rtol=16 * reference.ROUNDING, atol=0)


def test_identical_boxes_lose_their_whole_score_to_soft_linear():
    rows = np.tile(np.float32([[8, 8, 24, 40, 0.5]]), (8, 1))
    got = nms(rows, "soft-linear", score_threshold=0.1)
    assert_array_equal(got, rows[:1])


def test_soft_gaussian_decays_with_sigma_a_half():
    # IoU 1/3 exactly: 8 x 8 boxes that share 4 x 8.
    rows = np.float32([[0, 0, 8, 8, 0.9], [4, 0, 12, 8, 0.8]])
    got = nms(rows, "soft-gaussian")
    assert got[0, 4] == np.float32(0.9)
    want = np.float64(np.float32(0.8)) * np.exp(-((1 / 3) ** 2) / 0.5)
    # The quotient, its square and its division by sigma, exp() 2, the product.
    assert abs(got[1, 4] - want) <= 6 * reference.ROUNDING * want


def test_soft_linear_leaves_what_overlaps_less_than_the_threshold():
    rows = np.float32([[0, 0, 8, 8, 0.9], [4, 0, 12, 8, 0.8]])
    assert_array_equal(nms(rows, "soft-linear", 0.34), rows)
    want = np.float64(np.float32(0.8)) * (1 - 1 / 3)
    assert abs(nms(rows, "soft-linear", 0.33)[1, 4] - want) <= 3 * reference.ROUNDING * want


@pytest.mark.parametrize("kind", ["soft-linear", "soft-gaussian"])
def test_soft_drops_what_decays_below_the_score_threshold(kind):
    rows = np.float32([[0, 0, 8, 8, 0.9], [1, 0, 9, 8, 0.8], [100, 0, 108, 8, 0.5]])
    assert_array_equal(nms(rows, kind, score_threshold=0.45), rows[[0, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_an_overlap_equal_to_the_threshold_is_not_too_much(kind):
    # Half of it, exact in float32.
    rows = np.float32([[0, 0, 16, 8, 0.9], [0, 0, 8, 8, 0.8]])
    kept = nms(rows, kind, 0.5)
    assert len(kept) == 2
    if kind != "soft-gaussian":  # which decays whatever overlaps
        assert_array_equal(kept, rows)


def test_equal_scores_stay_in_the_order_of_their_priors():
    x = np.arange(40, dtype=np.float32) * 100
    rows = np.stack([x, x * 0, x + 50, x * 0 + 50, x * 0 + 0.5], axis=1)
    rows[7, 4] = 0.75
    order = [7, *range(7), *range(8, 40)]
    for kind in KINDS:
        assert_array_equal(nms(rows, kind), rows[order])
        assert_array_equal(nms(rows, kind, top_k=5), rows[order[:5]])
        assert_array_equal(nms(rows, kind, max_faces=5), rows[order[:5]])


def test_of_equal_scores_the_first_prior_is_the_face():
    rows = np.float32([[0, 0, 10, 10, 0.5], [1, 0, 11, 10, 0.5], [2, 0, 12, 10, 0.5]])
    assert_array_equal(nms(rows), rows[:1])
    assert_array_equal(nms(rows[::-1]), rows[2:])


def test_a_box_suppresses_only_while_it_is_kept():
    # The second goes because of the first, so it does not take the third with it.
    rows = np.float32([[0, 0, 10, 10, 0.9], [4, 0, 14, 10, 0.8], [8, 0, 18, 10, 0.7]])
    assert_array_equal(nms(rows, iou_threshold=0.3), rows[[0, 2]])


def test_top_k_counts_candidates_and_max_faces_faces():
    rows = np.float32(
        [[0, 0, 10, 10, 0.9], [0, 0, 10, 11, 0.8], [50, 0, 60, 10, 0.7], [90, 0, 99, 9, 0.6]]
    )
    assert_array_equal(nms(rows, top_k=2), rows[:1])
    assert_array_equal(nms(rows, top_k=3), rows[[0, 2]])
    assert_array_equal(nms(rows, max_faces=2), rows[[0, 2]])


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_without_area_overlap_nothing(kind):
    rows = np.float32(
        [
            [5, 5, 5, 9, 0.9],
            [5, 5, 5, 9, 0.8],
            [9, 9, 3, 3, 0.7],  # inside out
            [0, 0, 10, 10, 0.6],
        ]
    )
    assert_array_equal(nms(rows, kind, 0.0), rows)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_that_touch_do_not_overlap(kind):
    rows = np.float32([[0, 0, 10, 10, 0.9], [10, 0, 20, 10, 0.8], [0, 10, 10, 20, 0.7]])
    assert_array_equal(nms(rows, kind, 0.0), rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_the_best_face_comes_first(kind, seed):
    scores = nms(candidates(200, seed), kind)[:, 4]
    assert len(scores) > 1
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("kind", ["hard", "soft-linear", "soft-gaussian"])
def test_landmarks_stay_with_their_box(kind):
    rows = candidates(60, 1, landmarks=True)
    known = {row[:4].tobytes(): row[5:].tobytes() for row in rows}
    got = nms(rows, kind)
    assert len(got) > 1
    assert all(known[row[:4].tobytes()] == row[5:].tobytes() for row in got)


def test_blending_averages_a_cluster_by_the_exponential_of_the_score():
    rows = np.float32(
        [
            [0, 0, 10, 10, 0.9, *range(10)],
            [1, 0, 11, 10, 0.5, *range(10, 20)],
            [50, 50, 60, 60, 0.7, *range(20, 30)],
        ]
    )
    weights = np.exp(np.float64(rows[:2, 4]))
    merged = np.average(np.float64(rows[:2]), axis=0, weights=weights)
    got = nms(rows, "blending", 0.5)
    assert_array_equal(got[0 if merged[4] < 0.7 else 1], rows[2])
    # Two weights of exp() and a quotient (2 + 1 + 2 for the sum of weights), two products, a sum.
    bound = 8 * reference.ROUNDING * np.abs(merged)
    assert (np.abs(got[1 if merged[4] < 0.7 else 0] - merged) <= bound).all()


@pytest.mark.parametrize("count", range(1, 40))
def test_blending_gives_no_score_beyond_its_candidates(count):
    # However the weights round: a score stays a probability.
    rows = np.tile(np.float32([[8, 8, 24, 40, 1]]), (count, 1))
    assert nms(rows, "blending")[0, 4] <= 1


def test_blending_clusters_around_the_best_alone():
    # The third overlaps the second, which is in the first's cluster, but not the first: it stays.
    rows = np.float32([[0, 0, 10, 10, 0.9], [4, 0, 14, 10, 0.8], [8, 0, 18, 10, 0.7]])
    got = nms(rows, "blending", 0.3)
    assert len(got) == 2
    assert rows[2].tolist() in got.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "fast"},
            "nms is 'fast'; expected one of blending, hard, soft-gaussian, soft-linear",
        ),
        ({"top_k": 0}, "counts start at 1"),
        ({"max_faces": 0}, "counts start at 1"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        nms(np.zeros((1, 5)), **changes)


@pytest.mark.parametrize("shape", [(3, 4), (5,), (1, 1, 5)])
def test_candidates_of_another_shape_are_refused(shape):
    options = _core.Options(
        score_threshold=0, iou_threshold=0.5, nms="hard", max_faces=1, pre_nms_top_k=1, min_face=0
    )
    with pytest.raises(ValueError, match=r"candidates must be \(N, 5\) or \(N, 15\)"):
        _core.non_max_suppression(np.zeros(shape, np.float32), options)


@given(
    rows=st.lists(st.tuples(*[st.floats(width=32)] * 4, st.floats(0, 1, width=32)), max_size=12),
    kind=st.sampled_from(KINDS),
)
@settings(max_examples=150, deadline=None)
def test_any_boxes_give_some_of_them(rows, kind):
    # Decoding lets no such box through; still, no hang and no crash.
    got = nms(np.float32(rows).reshape(-1, 5), kind, score_threshold=0.1)
    assert min(1, len(rows)) <= len(got) <= len(rows)
