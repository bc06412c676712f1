from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

import reference
from edgeface import _core
from edgeface.errors import BackendError, ModelError

WIDTH, HEIGHT = 64, 48
LEVELS = {"strides": (16, 32), "min_sizes": ((12.0, 20.0), (40.0,))}
PRIORS = reference.priors(WIDTH, HEIGHT, clip=False, **LEVELS).astype(np.float32)
COUNT = len(PRIORS)
VARIANCES = (0.1, 0.2)
CORNER_SCALE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])


def spec(**changes):
    return reference.core_spec(width=WIDTH, height=HEIGHT, clip=False, **LEVELS, **changes)


def decode(
    scores=None,
    boxes=None,
    landmarks=None,
    *,
    threshold=0.0,
    min_face=(0, 0),
    objectness=None,
    **changes,
):
    scores = np.ones((COUNT, 1)) if scores is None else scores
    boxes = np.zeros((COUNT, 4)) if boxes is None else boxes
    heads = [None if head is None else np.float32(head) for head in (scores, boxes, landmarks)]
    if objectness is not None:
        objectness = np.float32(objectness)
    return _core.decode(*heads, spec(**changes), threshold, min_face, objectness)


def offsets(seed, columns=4, scale=2.0):
    values = np.random.default_rng(seed).normal(scale=scale, size=(COUNT, columns))
    return values.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_offsets_give_the_defined_boxes(seed):
    boxes = offsets(seed)
    want, bound = reference.decode_boxes(boxes, PRIORS, VARIANCES, WIDTH, HEIGHT)
    got = decode(boxes=boxes)
    assert len(got) == COUNT
    assert (np.abs(got[:, :4] - want) <= bound).all()


def test_zero_offsets_give_the_priors():
    centre, size = np.float64(PRIORS[:, :2]), np.float64(PRIORS[:, 2:])
    want = np.hstack([centre - size / 2, centre + size / 2]) * CORNER_SCALE
    # A sum of values up to 1 and a product, each rounded.
    bound = 2 * reference.ROUNDING * (np.tile(centre + size / 2, 2) * CORNER_SCALE)
    assert (np.abs(decode()[:, :4] - want) <= bound).all()


@pytest.mark.parametrize("variances", [(0.1, 0.2), (0.25, 0.05), (1.0, 1.0)])
def test_decoding_undoes_encoding(variances):
    random = np.random.default_rng(1)
    low = random.uniform((0, 0), (WIDTH, HEIGHT), (COUNT, 2))
    corners = np.hstack([low, low + random.uniform(1, 60, (COUNT, 2))])
    held = np.float64(np.float32(variances))
    encoded = np.float32(reference.encode_boxes(corners, np.float64(PRIORS), held, WIDTH, HEIGHT))
    _, bound = reference.decode_boxes(encoded, PRIORS, variances, WIDTH, HEIGHT)
    # Besides the arithmetic, the offsets themselves were rounded to float32 once: that costs less than one of
    # the roundings that the bound already counts for each of them.
    assert (np.abs(decode(boxes=encoded, variances=variances)[:, :4] - corners) <= 2 * bound).all()


def test_rows_keep_the_order_of_the_priors():
    scores = np.random.default_rng(0).uniform(size=(COUNT, 1)).astype(np.float32)
    assert_array_equal(decode(scores)[:, 4], scores[:, 0])
    kept = scores[:, 0] >= np.float32(0.5)
    assert_array_equal(decode(scores, threshold=0.5)[:, 4], scores[kept, 0])


def test_a_score_equal_to_the_threshold_is_kept():
    scores = np.full((COUNT, 1), 0.7, np.float32)
    scores[0] = np.nextafter(np.float32(0.7), np.float32(0))
    scores[1] = np.nextafter(np.float32(0.7), np.float32(1))
    assert len(decode(scores, threshold=float(np.float32(0.7)))) == COUNT - 1
    assert len(decode(scores, threshold=float(scores[1, 0]))) == 1


def test_a_threshold_of_one_keeps_certainty_alone():
    scores = np.full((COUNT, 1), 1 - 2.0**-24, np.float32)
    scores[3] = 1
    assert decode(scores, threshold=1.0)[:, 4].tolist() == [1.0]


def test_scores_that_are_applied_already_come_from_the_last_column():
    both = np.random.default_rng(2).uniform(size=(COUNT, 2)).astype(np.float32)
    assert_array_equal(decode(both)[:, 4], both[:, 1])


@pytest.mark.parametrize("threshold", [0.0, 1e-6, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("activation", ["none", "softmax"])
def test_the_score_is_the_root_of_its_product_with_the_objectness(activation, threshold):
    random = np.random.default_rng(4)
    scores = random.normal(scale=3, size=(COUNT, 1)).astype(np.float32)
    objectness = random.uniform(-0.2, 1.2, (COUNT, 1)).astype(np.float32)  # limited to 0..1
    scores[0], objectness[0] = (40 if activation == "softmax" else 1.5), 1
    share = (
        reference.sigmoid(np.float64(scores)) if activation == "softmax" else np.minimum(scores, 1)
    )
    want = np.sqrt(np.maximum(share, 0) * np.clip(np.float64(objectness), 0, 1)).ravel()
    want = np.where(scores.ravel() < 0, -1, want) if activation == "none" else want
    # As below for the share; then a product and a root, which halves what is lost before.
    bound = (np.abs(scores.ravel()) + 4) / 2 * reference.ROUNDING * np.abs(want) + 1e-7 * want
    got = decode(scores, threshold=threshold, activation=activation, objectness=objectness)
    # Every box of a prior is its own: its row tells which prior it was.
    rows = decode(threshold=0)[:, :4]
    match = (rows[:, None] == got[None, :, :4]).all(axis=2)
    kept = match.any(axis=1)
    clear = np.abs(want - threshold) > bound
    assert kept[(want >= threshold) & clear].all()
    assert not kept[(want < threshold) & clear].any()
    assert (np.abs(got[:, 4] - want[kept]) <= bound[kept]).all()
    assert kept[0]


def test_an_objectness_of_other_rows_is_refused():
    with pytest.raises(ModelError, match="the heads do not fit the spec's"):
        decode(objectness=np.ones((COUNT - 1, 1)))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("threshold", [0.0, 1e-6, 0.3, 0.7, 0.999, 0.9999, 1.0])
def test_pending_softmax_is_applied_before_the_threshold(columns, threshold):
    logits = offsets(3, columns, scale=4.0)
    logits[0, -1] = 40  # rounds to a probability of exactly 1
    logits[0, 0] = 40 if columns == 1 else 0
    difference = np.float64(logits[:, -1]) - (logits[:, 0] if columns == 2 else 0)
    want = reference.sigmoid(difference)
    # The difference rounds once, which moves the logarithm of the odds; exp(), sum and quotient: 4 more.
    bound = (np.abs(difference) + 4) * reference.ROUNDING * want
    clear = np.abs(want - threshold) > bound
    certain = (want >= threshold) & clear
    got = decode(logits, threshold=threshold, activation="softmax")
    # Every box of a prior is its own: its row tells which prior it was.
    rows = decode(threshold=0)[:, :4]
    kept = (rows[:, None] == got[None, :, :4]).all(axis=2).any(axis=1)
    assert kept[certain].all()
    assert not kept[~certain & clear].any()
    assert (np.abs(got[:, 4] - want[kept]) <= bound[kept]).all()


def test_a_certain_logit_reaches_a_threshold_of_one():
    logits = np.zeros((COUNT, 2), np.float32)
    logits[3] = (-20, 20)
    assert decode(logits, threshold=1.0, activation="softmax")[:, 4].tolist() == [1.0]


def test_two_logits_are_the_softmax_of_both():
    logits = np.tile(np.float32([[0.5, 1.5]]), (COUNT, 1))
    want = np.exp(1.5) / (np.exp(0.5) + np.exp(1.5))
    got = decode(logits, activation="softmax")[:, 4]
    assert (np.abs(got - want) <= 5 * reference.ROUNDING).all()


def test_corners_are_relative_to_the_input():
    low, more = np.random.default_rng(4).uniform(0, 0.5, (2, COUNT, 2))
    boxes = np.hstack([low, low + more]).astype(np.float32)
    got = decode(boxes=boxes, encoding="corners")
    assert_array_equal(got[:, :4], boxes * np.float32(CORNER_SCALE))


def test_landmarks_move_with_the_centre():
    moves = offsets(5, 10)
    got = decode(landmarks=moves)
    prior = np.float64(PRIORS)[:, None]
    step = moves.reshape(-1, 5, 2) * np.float64(np.float32(0.1)) * prior[..., 2:]
    want = (prior[..., :2] + step) * (WIDTH, HEIGHT)
    # Two products, a sum, the scaling to pixels.
    bound = 4 * reference.ROUNDING * (np.abs(prior[..., :2]) + np.abs(step)) * (WIDTH, HEIGHT)
    assert got.shape == (COUNT, 15)
    assert (np.abs(got[:, 5:].reshape(-1, 5, 2) - want) <= bound).all()


def test_landmarks_beside_corners_are_relative_to_the_input():
    points = np.random.default_rng(6).uniform(size=(COUNT, 10)).astype(np.float32)
    got = decode(landmarks=points, encoding="corners")
    assert_array_equal(got[:, 5:], points * np.float32([WIDTH, HEIGHT] * 5))


def test_corners_that_are_inside_out_are_no_face():
    boxes = np.tile(np.float32([0.5, 0.5, 0.25, 0.25]), (COUNT, 1))
    assert len(decode(boxes=boxes, encoding="corners")) == 0


def test_min_face_is_about_the_longer_side():
    # 8 x 4, 4 x 8 and 4 x 4 pixels, exact in float32.
    boxes = np.zeros((COUNT, 4), np.float32)
    boxes[0] = (0, 0, 8 / WIDTH, 4 / HEIGHT)
    boxes[1] = (0, 0, 4 / WIDTH, 0.25)
    boxes[2] = (0, 0, 4 / WIDTH, 4 / HEIGHT)

    def found(min_face):
        rows = decode(boxes=boxes, encoding="corners", min_face=min_face)[:, 2:4]
        return [tuple(np.round(row).astype(int)) for row in rows if row.any()]

    assert found((0, 0)) == [(8, 4), (4, 12), (4, 4)]
    assert found((8, 8)) == [(8, 4), (4, 12)]
    assert found((8.001, 8.001)) == [(4, 12)]
    assert found((8, 100)) == [(8, 4)]  # for each axis, as stretching scales them differently
    assert found((100, 5)) == [(4, 12)]
    assert found((100, 100)) == []


ANY_FLOAT = st.floats(width=32) | st.sampled_from(
    [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e-45, 0.0, -0.0, 88.8, 1e20]
).map(np.float32)


def any_head(columns):
    return hnp.arrays(np.float32, (COUNT, columns), elements=ANY_FLOAT, fill=ANY_FLOAT)


@given(
    scores=any_head(1) | any_head(2),
    boxes=any_head(4),
    landmarks=st.none() | any_head(10),
    encoding=st.sampled_from(["offsets", "corners"]),
    activation=st.sampled_from(["none", "softmax"]),
    threshold=st.sampled_from([0.0, 1e-30, 0.5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_any_head_gives_finite_faces(scores, boxes, landmarks, encoding, activation, threshold):
    with np.errstate(all="ignore"):
        found = decode(
            scores, boxes, landmarks, threshold=threshold, encoding=encoding, activation=activation
        )
    assert np.isfinite(found).all()
    # float32 holds the threshold.
    assert (found[:, 4] >= np.float32(threshold)).all()
    assert (found[:, 4] <= 1).all()


@pytest.mark.parametrize("head", ["scores", "boxes", "landmarks"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_bad_value_costs_its_row_alone(head, value):
    heads = {
        "scores": np.full((COUNT, 1), 0.5, np.float32),
        "boxes": np.zeros((COUNT, 4), np.float32),
        "landmarks": np.zeros((COUNT, 10), np.float32),
    }
    whole = decode(**heads)
    heads[head][4, 0] = value
    got = decode(**heads)
    if head == "scores" and value == np.inf:
        assert got[4, 4] == 1  # beyond certain is certain
        return
    assert_array_equal(got, np.delete(whole, 4, axis=0))


def test_huge_sizes_are_limited_not_lost():
    boxes = np.zeros((COUNT, 4), np.float32)
    boxes[:, 2:] = np.inf
    got = decode(boxes=boxes)
    want, bound = reference.decode_boxes(
        np.float32([[0, 0, 50, 50]]), PRIORS, VARIANCES, WIDTH, HEIGHT
    )
    # The limit of the exponent is 10: what 50 * 0.2 gives, but for the rounding of 0.2 in float32.
    assert (np.abs(got[:, :4] - want) <= bound * 2).all()


def test_no_score_reaching_the_threshold_gives_no_rows():
    assert decode(np.zeros((COUNT, 1)), threshold=0.5).shape == (0, 5)
    assert decode(np.zeros((COUNT, 1)), None, np.zeros((COUNT, 10)), threshold=0.5).shape == (0, 15)


@pytest.mark.parametrize(
    ("scores", "boxes", "landmarks"),
    [
        ((COUNT - 1, 1), (COUNT, 4), None),
        ((COUNT, 3), (COUNT, 4), None),
        ((COUNT, 1), (COUNT + 1, 4), None),
        ((COUNT, 1), (COUNT, 5), None),
        ((COUNT, 1), (COUNT, 4), (COUNT, 8)),
        ((COUNT, 1), (COUNT, 4), (1, 10)),
    ],
)
def test_heads_that_do_not_fit_the_priors_are_refused(scores, boxes, landmarks):
    shapes = (scores, boxes, landmarks)
    with pytest.raises(ModelError, match=f"{COUNT} priors"):
        decode(*(None if shape is None else np.zeros(shape) for shape in shapes))


def test_a_head_without_rows_is_refused():
    with pytest.raises((ModelError, BackendError)):
        decode(np.zeros(COUNT))
