from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import reference
from edgeface import _core
from edgeface.spec import InputSpec

torch = pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("cv2", reason="training needs OpenCV")

from edgeface.train import augment, pictures
from edgeface.train.augment import NONE, Augmentation, Part, Plan
from edgeface.train.samples import Sample, Source

SIZE = (160, 120)
PLAIN = Augmentation(grey=0, distort=0, min_face=0)  # geometry alone
# What landmarks are painted with; the face itself is 255, the background 0.
GREYS = (60, 100, 140, 180, 220)


def make_sample(size, boxes, landmarks=None, ignore=None):
    boxes = np.float32(boxes).reshape(-1, 4)
    points = np.full((len(boxes), 5, 2), np.nan, np.float32) if landmarks is None else landmarks
    ignored = np.zeros(len(boxes), bool) if ignore is None else np.array(ignore)
    return Sample("made", size, boxes, ignored, np.float32(points), Source(Path("nowhere")))


def points_of(box):
    """Landmarks of a face, in fifths of its sides."""
    x1, y1, x2, y2 = box
    places = np.array([[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.75, 0.75]])
    return places * (x2 - x1, y2 - y1) + (x1, y1)


def painted(seed=0, count=6, *, landmarks=True):
    """Samples with white faces on black, their landmarks grey, and the images."""
    random = np.random.default_rng(seed)
    samples, images = [], []
    for _ in range(count):
        width, height = int(random.integers(150, 400)), int(random.integers(150, 400))
        image = np.zeros((height, width, 3), np.uint8)
        boxes = []
        for column in range(2):  # apart from each other
            x1 = int(random.integers(2, width // 8)) + column * width // 2
            y1 = int(random.integers(2, height // 2))
            side = int(random.integers(40, width // 3 + 1))
            boxes.append((x1, y1, x1 + side, y1 + side))
        for x1, y1, x2, y2 in boxes:
            image[y1:y2, x1:x2] = 255
            for grey, (x, y) in zip(GREYS if landmarks else (), points_of((x1, y1, x2, y2))):
                reach = (x2 - x1) // 10
                image[int(y) - reach : int(y) + reach, int(x) - reach : int(x) + reach] = grey
        samples.append(make_sample((width, height), boxes, [points_of(box) for box in boxes]))
        images.append(image)
    return samples, pictures.Pictures([[torch.from_numpy(image)] for image in images])


def input_spec(size=SIZE, **changes):
    values = {"name": "input", "channels": "bgr", "mean": (0.0,) * 3, "scale": (1.0,) * 3}
    return InputSpec(width=size[0], height=size[1], resize="stretch", **{**values, **changes})


def drawn(images, plan, size=SIZE):
    """(height, width) of the blue channel."""
    return pictures.draw(images, [plan], input_spec(size))[0, 0].numpy()


def planned(samples, index, augmentation, seed, *, size=SIZE):
    others = np.arange(len(samples))
    return augment.plan(samples, index, size, augmentation, seed, others=others)


# --- Geometry ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mosaic", "expand", "crop", "whole"])
def test_faces_are_where_their_pixels_are(kind):
    samples, images = painted(landmarks=False)
    chances = {name: float(name == kind) for name in ("mosaic", "expand", "crop")}
    augmentation = dataclasses.replace(PLAIN, **chances, max_expand=1.5, mosaic_sides=(2,))
    checked = 0
    for seed in range(30):
        plan = planned(samples, seed % len(samples), augmentation, (seed,))
        plan = dataclasses.replace(plan, fill=np.zeros(3, np.float32))
        image = drawn(images, plan)
        shown = np.zeros(image.shape, bool)
        for x1, y1, x2, y2 in plan.boxes.round().astype(int):
            shown[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
            if min(x2 - x1, y2 - y1) > 6:  # within is at least a pixel from the edge
                assert image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 200
                checked += 1
        assert (image[~shown] < 60).all()
    assert checked > 20


def test_landmarks_keep_their_side_when_mirrored():
    samples, images = painted()
    mirrored = 0
    for seed in range(40):
        augmentation = dataclasses.replace(PLAIN, mosaic=0, expand=0, crop=0)
        plan = planned(samples, seed % len(samples), augmentation, (seed,))
        image = drawn(images, plan)
        is_mirrored = plan.parts[0].mirrored
        mirrored += is_mirrored
        # In a mirrored face what is left now was right when it was painted.
        greys = [GREYS[i] for i in ([1, 0, 2, 4, 3] if is_mirrored else range(5))]
        for points in plan.landmarks:
            assert points[0, 0] < points[1, 0]
            assert points[3, 0] < points[4, 0]
            for grey, (x, y) in zip(greys, points):
                assert abs(image[int(y), int(x)] - grey) < 5
    assert 5 < mirrored < 35


def test_a_plan_depends_on_its_seed_and_image_alone():
    samples, _ = painted()
    one, again, other = (
        planned(samples, 3, Augmentation(), seed) for seed in ((1, 2), (1, 2), (1, 3))
    )
    for field in dataclasses.fields(Plan):
        assert_array_equal(getattr(one, field.name), getattr(again, field.name))
    assert one.parts != other.parts or (one.colour != other.colour).any()


def test_a_mosaic_has_its_image_once_and_else_those_that_it_may_take():
    samples, _ = painted()
    mosaic = dataclasses.replace(NONE, mosaic=1, mosaic_sides=(3,))
    taken = np.zeros(len(samples), int)
    for seed in range(50):
        plan = augment.plan(samples, 0, SIZE, mosaic, (seed,), others=np.array([1, 1, 1, 2]))
        shown = np.bincount([part.index for part in plan.parts], minlength=len(samples))
        assert shown[0] == 1
        taken += shown
    assert taken[1] + taken[2] == 8 * 50
    assert (
        0.65 < taken[1] / (8 * 50) < 0.85
    )  # three quarters, within more than four deviations (.0217)


def test_without_augmentation_it_is_the_whole_image():
    samples, _ = painted()
    plan = planned(samples, 2, NONE, (0,))
    assert plan.parts == (Part(2, (0, 0, *samples[2].size), (0, 0, *SIZE), mirrored=False),)
    assert_array_equal(plan.colour, np.eye(3, 4))


def placed(sample, source, augmentation=PLAIN):
    """Boxes, landmarks and what is ignored of a 100x100 crop shown at its size."""
    return augment._faces(sample, Part(0, source, (0, 0, 100, 100), mirrored=False), augmentation)


def test_a_face_too_small_is_ignored():
    sample = make_sample((300, 300), [(10, 10, 16, 16), (30, 30, 50, 50)])
    augmentation = dataclasses.replace(PLAIN, min_face=8)
    assert placed(sample, (0, 0, 100, 100), augmentation)[2].tolist() == [True, False]
    # Twice as large in the input, it is not.
    assert placed(sample, (0, 0, 50, 50), augmentation)[2].tolist() == [False, False]


def test_a_face_that_is_mostly_hidden_is_ignored_and_one_that_is_not_there_is_dropped():
    sample = make_sample((300, 300), [(70, 10, 110, 50), (90, 60, 130, 90), (150, 0, 190, 40)])
    boxes, landmarks, ignored = placed(sample, (0, 0, 100, 100))
    assert boxes.tolist() == [[70, 10, 100, 50], [90, 60, 100, 90]]
    assert ignored.tolist() == [False, True]  # 3/4 and 1/4 of them are to be seen
    assert landmarks.shape == (2, 5, 2)


def test_what_is_ignored_stays_ignored():
    sample = make_sample((100, 100), [(10, 10, 60, 60)], ignore=[True])
    assert placed(sample, (0, 0, 100, 100))[2].tolist() == [True]


def test_a_crop_shows_part_of_a_face_where_there_is_one():
    sample = make_sample((400, 300), [(350, 20, 370, 40)])
    augmentation = dataclasses.replace(PLAIN, mosaic=0, expand=0, crop=1, min_crop=0.3)
    parts = [planned([sample], 0, augmentation, (i,)).parts[0] for i in range(50)]
    widths = [part.source[2] - part.source[0] for part in parts]
    assert min(widths) < 200  # they are crops
    for part in parts:
        assert (augment._visible(sample.boxes, part.source) > 0).all()
        x1, y1, x2, y2 = part.source
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 300


def test_images_without_faces_can_be_augmented():
    sample = make_sample((64, 48), [])
    for seed in range(20):
        plan = planned([sample], 0, Augmentation(), (seed,))
        assert plan.boxes.shape == (0, 4)
        assert plan.landmarks.shape == (0, 5, 2)


# --- Colours -------------------------------------------------------------------------------------------


def test_turning_the_hue_leaves_grey_as_it_is():
    assert_allclose(augment._turned(0.3) @ np.full(3, 100.0), 100, atol=1e-12)
    assert_allclose(augment._turned(2 * np.pi / 3) @ np.array([9.0, 0, 0]), [0, 9, 0], atol=1e-12)


def test_without_saturation_an_image_is_its_luma():
    grey = augment._saturated(0) @ np.array([10.0, 20.0, 30.0])
    assert_allclose(grey, 0.114 * 10 + 0.587 * 20 + 0.299 * 30)


def test_colours_are_drawn_as_planned():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    images = pictures.Pictures([[torch.from_numpy(image)]])
    plan = planned([make_sample((40, 30), [])], 0, NONE, (0,), size=(40, 30))
    colour = np.float32([[0.5, 0.2, 0, 9], [0, 1.5, 0, -20], [0.1, 0.1, 0.8, 0]])
    plan = dataclasses.replace(plan, colour=colour)
    spec = input_spec((40, 30), channels="rgb", mean=(1.0, 2.0, 3.0), scale=(0.5, 0.25, 2.0))
    found = pictures.draw(images, [plan], spec)[0].permute(1, 2, 0).numpy()
    wanted = np.clip(image @ colour[:, :3].T.astype(float) + colour[:, 3], 0, 255)[..., ::-1]
    wanted = (wanted - [1, 2, 3]) * [0.5, 0.25, 2]
    assert_allclose(found, wanted, rtol=0, atol=1e-3)  # float32 of numbers up to 500


# --- Pixels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(100, 90), (150, 120), (199, 179)])
def test_a_whole_image_looks_as_it_does_to_a_detector(size):
    """Shrunk by at most 2, or enlarged."""
    image = reference.picture(179, 199)
    images = pictures.Pictures([[torch.from_numpy(image)]])
    plan = planned([make_sample((199, 179), [])], 0, NONE, (0,), size=size)
    spec = input_spec(size, channels="rgb", mean=(127.0,) * 3, scale=(1 / 128,) * 3)
    found = pictures.draw(images, [plan], spec)
    core = reference.core_spec(width=size[0], height=size[1])
    wanted = np.asarray(_core.preprocess(image, core, "bgr")).reshape(found.shape)
    # Each rounds to whole grey levels once or twice: they are within 2 of another, of 128 to 1.
    assert np.abs(found.numpy() - wanted).max() <= 2 / 128 + 1e-5
    assert np.abs(found.numpy() - wanted).mean() < 0.5 / 128


def test_a_fine_pattern_does_not_alias_when_shrunk_a_lot(tmp_path):
    cv2 = pytest.importorskip("cv2")
    image = np.zeros((256, 256, 3), np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 255
    cv2.imwrite(str(tmp_path / "fine.png"), image)
    sample = dataclasses.replace(make_sample((256, 256), []), encoded=Source(tmp_path / "fine.png"))
    images = pictures.decode_pictures([sample])
    plan = planned([sample], 0, NONE, (0,), size=(64, 64))
    shrunk = pictures.draw(images, [plan], input_spec((64, 64)))
    assert (shrunk - 127.5).abs().max() <= 1


def test_pictures_are_decoded_with_halves_and_quarters(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), reference.picture(50, 70))
    sample = dataclasses.replace(make_sample((70, 50), []), encoded=Source(tmp_path / "a.png"))
    images = pictures.decode_pictures([sample])
    shapes = [tuple(level.shape) for level in images.levels[0]]
    assert shapes == [(50, 70, 3), (25, 35, 3), (12, 17, 3)]


def test_images_that_would_fill_half_of_the_memory_are_decoded_as_they_are_drawn(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), reference.picture(48, 64))
    sample = dataclasses.replace(make_sample((64, 48), []), encoded=Source(tmp_path / "a.png"))
    size = 3 * (48 * 64 + 24 * 32 + 12 * 16)
    assert pictures.decoded_bytes([sample, sample]) == 2 * size
    made = {}
    for memory, are_decoded in ((4 * size, True), (4 * size - 2, False)):
        found = pictures.open_pictures([sample, sample], torch.device("cpu"), memory=memory)
        assert found.are_decoded == are_decoded
        assert len(found.levels) == 2
        plan = planned([sample, sample], 1, NONE, (0,), size=(40, 30))
        made[are_decoded] = pictures.draw(found, [plan], input_spec((40, 30)))
    assert torch.equal(made[True], made[False])
    assert pictures.open_pictures([sample], torch.device("cpu")).are_decoded
