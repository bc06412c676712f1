from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import reference
from edgeface import _core
from edgeface.spec import PriorSpec
from reference import ROUNDING

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from edgeface.train.loss import distillation_loss, feature_loss, hardest, multibox_loss
from edgeface.train.networks import Heads
from edgeface.train.priors import (
    NEGATIVE,
    NEITHER,
    POSITIVE,
    Targets,
    decode,
    decode_points,
    encode,
    encode_points,
    make_priors,
    match,
)

VARIANCES = (0.1, 0.2)
SIZES = [(320, 240), (160, 120), (300, 300), (65, 33)]


def prior_spec(grid="cell", *, clip=True):
    return PriorSpec(reference.STRIDES, reference.MIN_SIZES, grid, clip, VARIANCES)


PRIORS = make_priors(prior_spec(), (320, 240))


# --- Priors and coding, beside the core's --------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("grid", ["cell", "stride"])
def test_priors_are_those_of_the_core(size, grid, clip):
    width, height = size
    core = _core.make_priors(reference.core_spec(width=width, height=height, grid=grid, clip=clip))
    ours = make_priors(prior_spec(grid, clip=clip), size)
    # Both round a quotient in float64 to float32; the order of its factors may move the float64 by its last bit.
    assert_allclose(ours.numpy(), core, rtol=2 * ROUNDING, atol=0)


def some_offsets(columns, seed=0):
    return np.random.default_rng(seed).normal(size=(len(PRIORS), columns)).astype(np.float32) * 2


def test_decoded_boxes_and_landmarks_are_those_of_the_core():
    boxes, points = some_offsets(4), some_offsets(10, 1)
    scores = np.tile(np.float32([0, 1]), (len(PRIORS), 1))
    core = _core.decode(scores, boxes, points, reference.core_spec(landmarks="landmarks"), 0.5)
    assert len(core) == len(PRIORS)
    wanted, lost = reference.decode_boxes(boxes, PRIORS.numpy(), VARIANCES, 320, 240)
    found = decode(torch.from_numpy(boxes), PRIORS, VARIANCES).numpy() * [320, 240, 320, 240]
    assert (np.abs(found - wanted) <= lost).all()
    assert (np.abs(core[:, :4] - wanted) <= lost).all()
    found = decode_points(torch.from_numpy(points), PRIORS, VARIANCES).numpy() * [320, 240]
    # Three roundings of a product of at most 10 * 0.1 * 1.1, one of a sum, one of the product with the size.
    assert_allclose(found.reshape(-1, 10), core[:, 5:15], rtol=0, atol=2 * 5 * ROUNDING * 3 * 320)


def test_a_size_is_limited_as_the_core_limits_it():
    offsets = np.zeros((len(PRIORS), 4), np.float32)
    offsets[:, 2:] = 60
    scores = np.tile(np.float32([0, 1]), (len(PRIORS), 1))
    core = _core.decode(scores, offsets, None, reference.core_spec(), 0.5)
    found = decode(torch.from_numpy(offsets), PRIORS, VARIANCES).numpy() * [320, 240, 320, 240]
    assert_allclose(found, core[:, :4], rtol=16 * ROUNDING)


def test_decoding_what_was_encoded_gives_it_back():
    random = np.random.default_rng(2)
    low = random.uniform(-0.2, 0.9, (len(PRIORS), 2))
    boxes = np.hstack([low, low + random.uniform(0.01, 0.9, low.shape)])
    priors = PRIORS.double()
    there = encode(torch.from_numpy(boxes), priors, VARIANCES)
    assert_allclose(decode(there, priors, VARIANCES).numpy(), boxes, rtol=0, atol=1e-12)
    wanted = reference.encode_boxes(
        boxes * [320, 240, 320, 240], priors.numpy(), VARIANCES, 320, 240
    )
    assert_allclose(there.numpy(), wanted, rtol=1e-10, atol=1e-10)
    points = torch.from_numpy(random.uniform(-1, 2, (len(PRIORS), 5, 2)))
    again = decode_points(encode_points(points, priors, VARIANCES), priors, VARIANCES)
    assert_allclose(again.numpy(), points.numpy(), rtol=0, atol=1e-12)


# --- Matching ------------------------------------------------------------------------------------------


def faces(*pixels, landmarks=None, ignored=()):
    """Arguments of match for boxes in pixels of 320x240."""
    boxes = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 4) / torch.tensor(
        [320.0, 240.0, 320.0, 240.0]
    )
    points = torch.full((len(boxes), 5, 2), float("nan"))
    if landmarks is not None:
        points[0] = torch.tensor(landmarks)
    is_ignored = torch.tensor([i in ignored for i in range(len(boxes))], dtype=torch.bool)
    return boxes, points, is_ignored


def matched(*arguments, iou_threshold=0.35):
    return match(*arguments, PRIORS, VARIANCES, iou_threshold=iou_threshold)


def overlaps(box):
    """(P,) of every prior with a box in pixels, from the definition."""
    priors = PRIORS.double().numpy() * [320, 240, 320, 240]
    corners = np.hstack([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2])
    return np.array([reference.iou(prior, box) for prior in corners])


def test_priors_are_positive_from_the_threshold_on():
    box = (100.0, 80.0, 131.0, 118.0)
    targets = matched(*faces(box))
    iou = overlaps(box)
    assert (np.abs(iou - 0.35) > 1e-4).all()  # else float32 could decide otherwise
    assert_array_equal(targets.labels.numpy() == POSITIVE, iou >= 0.35)
    assert (targets.labels == NEGATIVE).sum() + (targets.labels == POSITIVE).sum() == len(PRIORS)


def test_offsets_of_positives_lead_to_their_face():
    box = (100.0, 80.0, 131.0, 118.0)
    targets = matched(*faces(box))
    found = decode(targets.boxes, PRIORS, VARIANCES)[targets.labels == POSITIVE]
    found = found.numpy() * [320, 240, 320, 240]
    assert len(found) > 1
    assert_allclose(found, np.tile(box, (len(found), 1)), rtol=0, atol=1e-3)


def test_the_best_prior_of_a_face_is_kept_however_small_the_overlap():
    tiny = (101.0, 83.0, 104.0, 86.0)
    targets = matched(*faces(tiny))
    iou = overlaps(tiny)
    assert iou.max() < 0.35
    assert_array_equal(np.flatnonzero(targets.labels.numpy() == POSITIVE), [iou.argmax()])


def test_a_prior_of_two_faces_belongs_to_the_one_it_overlaps_more():
    near, far = (100.0, 80.0, 132.0, 112.0), (109.0, 83.0, 140.0, 114.0)
    targets = matched(*faces(near, far))
    found = decode(targets.boxes, PRIORS, VARIANCES).numpy()[:, 0] * 320
    difference = overlaps(near) - overlaps(far)
    better = difference > 0
    positive = targets.labels.numpy() == POSITIVE
    assert (np.abs(difference[positive]) > 1e-4).all()  # else float32 could decide otherwise
    assert (positive & better).any()
    assert (positive & ~better).any()
    assert_allclose(found[positive & better], 100, atol=1e-3)
    assert_allclose(found[positive & ~better], 109, atol=1e-3)


def test_a_face_keeps_its_best_prior_beside_one_that_overlaps_it_more():
    large, small = (100.0, 80.0, 110.0, 90.0), (103.0, 83.0, 107.0, 87.0)
    targets = matched(*faces(large, small))
    best = overlaps(small).argmax()
    assert best == overlaps(large).argmax()
    found = decode(targets.boxes, PRIORS, VARIANCES)[best].numpy() * [320, 240, 320, 240]
    assert_allclose(found, small, atol=1e-3)


def test_priors_over_an_ignored_face_are_neither():
    ignored = (100.0, 80.0, 131.0, 118.0)
    targets = matched(*faces(ignored, ignored=[0]))
    assert not (targets.labels == POSITIVE).any()
    assert (targets.labels.numpy()[overlaps(ignored) >= 0.11] == NEITHER).all()
    assert (targets.labels.numpy()[overlaps(ignored) == 0] == NEGATIVE).all()


def test_a_face_is_found_though_it_lies_in_an_ignored_one():
    face, crowd = (100.0, 80.0, 131.0, 118.0), (60.0, 40.0, 200.0, 200.0)
    alone, inside = matched(*faces(face)), matched(*faces(face, crowd, ignored=[1]))
    assert_array_equal(alone.labels == POSITIVE, inside.labels == POSITIVE)
    assert (inside.labels == NEITHER).any()


def test_an_image_without_faces_is_background():
    targets = matched(*faces())
    assert (targets.labels == NEGATIVE).all()
    assert not targets.has_landmarks.any()


def test_landmarks_are_there_where_their_face_has_them():
    points = np.random.default_rng(0).uniform(0.3, 0.4, (5, 2)).astype(np.float32)
    targets = matched(*faces((100, 80, 131, 118), (10, 10, 41, 48), landmarks=points.tolist()))
    has = targets.has_landmarks
    assert has.any()
    assert (has != (targets.labels == POSITIVE)).any()  # the second face has none
    found = decode_points(targets.landmarks, PRIORS, VARIANCES)[has].numpy()
    assert_allclose(found, np.tile(points, (len(found), 1, 1)), rtol=0, atol=1e-6)
    assert targets.landmarks.isfinite().all()
    assert (targets.landmarks[~has] == 0).all()


# --- Losses, beside float64 NumPy ----------------------------------------------------------------------


def made_up(images=3, priors=40, *, landmarks=True, seed=0):
    """Heads and targets in float64, so that only the formula is tested."""
    random = np.random.default_rng(seed)

    def values(*shape):
        return torch.from_numpy(random.normal(size=(images, priors, *shape)) * 2)

    heads = Heads(values(2), values(4), values(10) if landmarks else None)
    labels = torch.from_numpy(random.choice([1, 0, 0, 0, 0, 0, -1], (images, priors)))
    has = (labels == POSITIVE) & torch.from_numpy(random.random((images, priors)) < 0.5)
    return heads, Targets(labels, values(4), values(10), has)


def smooth_l1(difference):
    size = np.abs(difference)
    return np.where(size < 1, size**2 / 2, size - 0.5).sum()


def reference_loss(heads, targets, ratio):
    """Prior by prior."""
    cost = boxes = points = 0.0
    positives = known = 0
    for image in range(len(targets.labels)):
        negatives, count = [], 0
        for prior, label in enumerate(targets.labels[image].tolist()):
            logits = heads.scores[image, prior].numpy()
            softmax = np.exp(logits) / np.exp(logits).sum()
            if label == POSITIVE:
                cost -= np.log(softmax[1])
                boxes += smooth_l1((heads.boxes - targets.boxes)[image, prior].numpy())
                count += 1
            elif label == NEGATIVE:
                negatives.append(-np.log(softmax[0]))
            if targets.has_landmarks[image, prior]:
                points += smooth_l1((heads.landmarks - targets.landmarks)[image, prior].numpy())
                known += 1
        cost += sum(sorted(negatives, reverse=True)[: int(ratio * max(count, 1))])
        positives += count
    return cost / positives, boxes / positives, points / known


def test_the_multibox_loss_is_that_of_the_definition():
    heads, targets = made_up()
    for ratio in (3, 1e6):
        found = multibox_loss(heads, targets, negatives=ratio)
        # The loss is computed in float32 of 100 or so terms of about 3.
        wanted = reference_loss(heads, targets, ratio)
        assert_allclose([float(x) for x in found], wanted, rtol=1e-5)
    everything = multibox_loss(heads, targets, negatives=math.inf)
    assert float(everything.scores) == float(found.scores)


def test_the_hardest_negatives_are_three_for_each_positive():
    heads, targets = made_up()
    positive, candidates = targets.labels == POSITIVE, targets.labels == NEGATIVE
    chosen = hardest(heads.scores, positive, candidates, 3)
    assert_array_equal(chosen.sum(1), 3 * positive.sum(1))
    assert not (chosen & ~candidates).any()
    margin = heads.scores[..., 1] - heads.scores[..., 0]
    for image in range(len(chosen)):
        left = candidates[image] & ~chosen[image]
        assert margin[image][chosen[image]].min() >= margin[image][left].max()


def test_an_image_without_a_face_teaches_a_little():
    heads, targets = made_up(images=1)
    nothing = Targets(torch.zeros_like(targets.labels), *targets[1:3], targets[3] & False)
    found = multibox_loss(heads, nothing, negatives=3)
    worst = (heads.scores[0, :, 1] - heads.scores[0, :, 0]).sort(descending=True).values[:3]
    assert_allclose(float(found.scores), np.log1p(np.exp(worst.numpy())).sum(), rtol=1e-5)
    assert float(found.boxes) == 0
    assert float(found.landmarks) == 0


def test_spared_negatives_do_not_count():
    heads, targets = made_up()
    spared = heads.scores[..., 1] > heads.scores[..., 0]
    without = multibox_loss(heads, targets, negatives=3, spared=spared)
    neither = torch.where(spared & (targets.labels == NEGATIVE), NEITHER, targets.labels)
    wanted = multibox_loss(heads, targets._replace(labels=neither), negatives=3)
    assert float(without.scores) == float(wanted.scores)
    assert float(without.scores) < float(multibox_loss(heads, targets, negatives=3).scores)


def test_absent_landmarks_cost_nothing_and_have_no_gradient():
    heads, targets = made_up()
    heads = Heads(heads.scores, heads.boxes, heads.landmarks.clone().requires_grad_())
    multibox_loss(heads, targets, negatives=3).landmarks.backward()
    assert ((heads.landmarks.grad != 0).any(-1) == targets.has_landmarks).all()


def test_a_student_like_its_teacher_costs_nothing():
    heads, _ = made_up(landmarks=False)
    same = distillation_loss(heads, heads, temperature=2.0, confident=0.3)
    assert_allclose([float(x) for x in same], 0, atol=1e-6)
    other, _ = made_up(landmarks=False, seed=1)
    assert float(distillation_loss(other, heads, temperature=2.0, confident=0.3)[0]) > 0.01


def test_the_divergence_is_that_of_the_definition():
    student, _ = made_up(landmarks=False)
    teacher, _ = made_up(landmarks=False, seed=1)

    def softmax(logits, temperature):
        values = np.exp(logits.numpy() / temperature)
        return values / values.sum(-1, keepdims=True)

    p, q = softmax(teacher.scores, 2), softmax(student.scores, 2)
    face = softmax(teacher.scores, 1)[..., 1]
    scores = 4 * (p * np.log(p / q)).sum() / face.sum()
    weight = np.where(face >= 0.3, face, 0)
    each = np.abs(student.boxes.numpy() - teacher.boxes.numpy())
    each = np.where(each < 1, each**2 / 2, each - 0.5).sum(-1)
    divergence, boxes = distillation_loss(student, teacher, temperature=2.0, confident=0.3)
    assert_allclose(float(divergence), scores, rtol=1e-5)
    assert_allclose(float(boxes), (each * weight).sum() / weight.sum(), rtol=1e-5)


def test_the_distance_of_features_is_relative_to_the_teacher_at_every_level():
    random = np.random.default_rng(0)
    teacher = [random.normal(size=(2, 3, 4, 5)), 100 * random.normal(size=(2, 3, 2, 2))]
    student = [random.normal(size=level.shape) for level in teacher]
    levels = [((s - t) ** 2).sum() / (t**2).sum() for s, t in zip(student, teacher)]
    found = feature_loss(
        [torch.tensor(level) for level in student], [torch.tensor(level) for level in teacher]
    )
    assert_allclose(float(found), np.mean(levels), rtol=1e-5)
