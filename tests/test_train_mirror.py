from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import reference
from edgeface.spec import PriorSpec
from reference import ROUNDING

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from torch.nn import functional

from edgeface.train import mirror
from edgeface.train.blocks import Detector, Heads
from edgeface.train.config import Config, Distillation, Stage
from edgeface.train.learner import Learner
from edgeface.train.priors import Targets, decode, decode_points, make_priors

VARIANCES = (0.1, 0.2)
SWAPPED = [1, 0, 2, 4, 3]
SPEC = PriorSpec(reference.STRIDES, reference.MIN_SIZES, "cell", True, VARIANCES)
SIZES = [(64, 48), (160, 120), (320, 240), (65, 33)]


def some_heads(size, *, landmarks=True, seed=0, images=2):
    random = np.random.default_rng(seed)
    count = len(make_priors(SPEC, size))

    def values(columns):
        return torch.from_numpy(random.normal(size=(images, count, columns)).astype(np.float32))

    return Heads(values(2), values(4), values(10) if landmarks else None)


@pytest.mark.parametrize("size", SIZES)
def test_prior_and_its_mirror_image_have_mirrored_places(size):
    priors = make_priors(SPEC, size).double().numpy()
    places = mirror.mirrored_places(SPEC, size)
    wanted = priors * [-1, 1, 1, 1] + [1, 0, 0, 0]
    assert_allclose(priors[places], wanted, rtol=0, atol=2 * ROUNDING)


@pytest.mark.parametrize("size", SIZES)
def test_boxes_and_landmarks_are_those_of_the_mirrored_image(size):
    heads, priors = some_heads(size), make_priors(SPEC, size)
    places = mirror.mirrored_places(SPEC, size)
    seen = mirror.mirrored(heads, places)
    boxes, points = (
        decode(heads.boxes, priors, VARIANCES),
        decode_points(heads.landmarks, priors, VARIANCES),
    )
    wanted = np.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1)
    # Sums of numbers of size 2, rounded to float32 a few times.
    found = decode(seen.boxes, priors, VARIANCES)
    assert_allclose(found, wanted[:, places], rtol=0, atol=16 * ROUNDING)
    wanted = np.stack([1 - points[..., 0], points[..., 1]], -1)[:, :, SWAPPED]
    found = decode_points(seen.landmarks, priors, VARIANCES)
    assert_allclose(found, wanted[:, places], rtol=0, atol=16 * ROUNDING)


@pytest.mark.parametrize("landmarks", [True, False])
def test_mirrored_twice_is_the_identity(landmarks):
    heads = some_heads((96, 72), landmarks=landmarks)
    places = mirror.mirrored_places(SPEC, (96, 72))
    once = mirror.mirrored(heads, places)
    twice = mirror.mirrored(once, places)
    assert not torch.equal(once.scores, heads.scores)
    for found, wanted in zip(twice, heads):
        assert found is wanted is None or torch.equal(found, wanted)


@pytest.mark.parametrize(("grid", "width"), [("stride", 80), ("corner", 128)])
def test_grid_that_is_not_its_own_mirror_image_is_refused(grid, width):
    spec = dataclasses.replace(SPEC, grid=grid, clip=False)
    with pytest.raises(ValueError, match=f"width of {width}: .* a multiple of 64"):
        mirror.mirrored_places(spec, (width, 48))


def test_grid_of_whole_strides_is_its_own_mirror_image():
    spec = dataclasses.replace(SPEC, grid="stride")
    places, cells = (mirror.mirrored_places(one, (128, 64)) for one in (spec, SPEC))
    assert_array_equal(places, cells)


def test_mean_is_that_of_probabilities_and_of_offsets():
    one, other = some_heads((64, 48)), some_heads((64, 48), seed=1)
    made = mirror.mean(one, other)
    wanted = (one.scores.double().softmax(-1) + other.scores.double().softmax(-1)) / 2
    assert_allclose(made.scores.double().softmax(-1), wanted, rtol=0, atol=8 * ROUNDING)
    assert torch.equal(made.boxes, (one.boxes + other.boxes) / 2)
    assert torch.equal(made.landmarks, (one.landmarks + other.landmarks) / 2)


def test_mean_has_no_landmarks_where_one_has_none():
    one, other = some_heads((64, 48)), some_heads((64, 48), landmarks=False)
    assert mirror.mean(one, other).landmarks is None
    assert mirror.mean(other, one).landmarks is None


def test_mean_of_very_sure_heads_is_finite():
    scores = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]])
    heads = Heads(scores, torch.zeros(1, 2, 4), None)
    assert mirror.mean(heads, heads).scores.isfinite().all()


# --- As a teacher ------------------------------------------------------------------------------------------


class Even(Detector):
    """Says of a mirrored image the mirror image of what it says: means of cells and slopes across them."""

    def features(self, image):
        height, width = image.shape[2:]
        grey = image.mean(1, keepdim=True)
        sizes = [(-(-height // stride), -(-width // stride)) for stride in SPEC.strides]
        return [functional.adaptive_avg_pool2d(grey, size) for size in sizes]

    def heads(self, features):
        scores, boxes = [], []
        for value, min_sizes in zip(features, SPEC.min_sizes):
            padded = functional.pad(value, (1, 1, 0, 0), mode="replicate")
            slope = padded[..., 2:] - padded[..., :-2]
            for made, columns in ((scores, (value, -value)), (boxes, (slope, value, value, value))):
                cells = torch.stack(columns, -1)[:, 0].flatten(1, 2)
                made.append(cells.repeat_interleave(len(min_sizes), 1))
        return Heads(torch.cat(scores, 1), torch.cat(boxes, 1), None)


def taught(image, teacher=None, **options):
    """Losses of a fresh student; image: (3, 64, 64) float32, seen by another one's batch of two."""
    config = Config(
        name="student",
        network="slim",
        stages=(Stage((64, 64), 1, 2),),
        distillation=Distillation(**options),
    )
    learner = Learner(config, torch.device("cpu"), teacher=(teacher or Even()).eval())
    count = len(make_priors(SPEC, (64, 64)))
    nothing = torch.zeros(2, count)
    targets = Targets(nothing.long(), nothing[..., None].expand(-1, -1, 4), nothing, nothing.bool())
    step = learner.step(torch.from_numpy(np.stack([image, image])), targets, 1e-3)
    return [float(value) for value in step.taught]


def noise():
    return np.random.default_rng(0).normal(size=(3, 64, 64)).astype(np.float32)


def test_mirror_changes_nothing_about_a_symmetric_image():
    image = noise()
    image += image[..., ::-1]
    plain, both = taught(image), taught(image, mirror=True)
    # Each sum of 2 * 150 or so terms is rounded another way.
    assert_allclose(both, plain, rtol=300 * ROUNDING, atol=0)


def test_mirror_changes_nothing_about_a_teacher_that_does_not_mind_mirrors():
    assert_allclose(taught(noise(), mirror=True), taught(noise()), rtol=300 * ROUNDING, atol=0)


def test_mirror_changes_heads_but_no_features_of_a_network():
    config = Config(name="teacher", network="slim", stages=(Stage((64, 64), 1, 2),), seed=1)
    teacher = Learner(config, torch.device("cpu")).network
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # so that one batch leaves values of a usual size
    teacher(torch.from_numpy(np.stack([noise(), noise()[..., ::-1]])))
    plain = taught(noise(), teacher, features=1.0)
    both = taught(noise(), teacher, features=1.0, mirror=True)
    assert abs(both[0] - plain[0]) > 1e-3 * plain[0]
    assert abs(both[1] - plain[1]) > 1e-3 * plain[1]
    assert both[2] == plain[2] > 0
