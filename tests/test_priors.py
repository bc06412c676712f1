from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import reference
from edgeface import _core

# The feature maps of the training code's own table, width and height apart.
COLUMNS = {
    128: [16, 8, 4, 2],
    160: [20, 10, 5, 3],
    320: [40, 20, 10, 5],
    480: [60, 30, 15, 8],
    640: [80, 40, 20, 10],
    1280: [160, 80, 40, 20],
}
ROWS = {
    96: [12, 6, 3, 2],
    120: [15, 8, 4, 2],
    240: [30, 15, 8, 4],
    360: [45, 23, 12, 6],
    480: [60, 30, 15, 8],
    960: [120, 60, 30, 15],
}
RELEASED = [(128, 96), (160, 120), (320, 240), (480, 360), (640, 480), (1280, 960)]


def core_priors(width, height, **changes):
    return _core.make_priors(reference.core_spec(width=width, height=height, **changes))


def trained_priors(width, height):
    """As the training code makes them: from its table, not from the strides."""
    found = []
    for columns, rows, sizes in zip(COLUMNS[width], ROWS[height], reference.MIN_SIZES):
        for j in range(rows):
            for i in range(columns):
                centre = ((i + 0.5) / columns, (j + 0.5) / rows)
                found += [(*centre, size / width, size / height) for size in sizes]
    return np.clip(found, 0, 1)


@pytest.mark.parametrize(("width", "height"), RELEASED)
def test_priors_are_those_of_the_training_code(width, height):
    want = trained_priors(width, height)
    assert_array_equal(reference.priors(width, height), want)
    # Computed in double and rounded once: equal, not close.
    assert_array_equal(core_priors(width, height), want.astype(np.float32))


def test_points_are_the_corners_of_the_cells_whose_stride_is_their_size():
    strides = (8, 32)
    sizes = tuple((float(stride),) for stride in strides)
    got = core_priors(96, 64, strides=strides, min_sizes=sizes, grid="corner", clip=False)
    want = [
        (x / 96, y / 64, stride / 96, stride / 64)
        for stride in strides
        for y in range(0, 64, stride)
        for x in range(0, 96, stride)
    ]
    assert_array_equal(got, np.float32(want))


@pytest.mark.parametrize(
    ("width", "height", "count"), [(320, 240, 4420), (640, 480, 17640), (128, 96, 708)]
)
def test_prior_counts_of_released_models(width, height, count):
    assert core_priors(width, height).shape == (count, 4)


def test_first_and_last_prior_at_320x240():
    priors = core_priors(320, 240)
    assert_array_equal(priors[0], np.float32([0.5 / 40, 0.5 / 30, 10 / 320, 10 / 240]))
    assert_array_equal(priors[1], np.float32([0.5 / 40, 0.5 / 30, 16 / 320, 16 / 240]))
    assert_array_equal(priors[3], np.float32([1.5 / 40, 0.5 / 30, 10 / 320, 10 / 240]))
    # 256 / 240 is clipped: sizes too, not only centres.
    assert_array_equal(priors[-1], np.float32([4.5 / 5, 3.5 / 4, 256 / 320, 1]))


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    grid=st.sampled_from(["cell", "stride"]),
    clip=st.booleans(),
    levels=st.lists(
        st.tuples(
            st.integers(1, 100),
            st.lists(st.integers(1, 4096).map(lambda n: n / 8), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=3,
    ).filter(lambda levels: levels[0][0] > 3),
)
@settings(max_examples=60, deadline=None)
def test_random_specs_give_the_defined_priors(width, height, grid, clip, levels):
    strides, min_sizes = zip(*((max(stride, 4), sizes) for stride, sizes in levels))
    options = {"strides": strides, "min_sizes": min_sizes, "grid": grid, "clip": clip}
    want = reference.priors(width, height, **options)
    assert_array_equal(core_priors(width, height, **options), want.astype(np.float32))


@pytest.mark.parametrize(("width", "height"), RELEASED)
def test_the_stride_grid_puts_centres_where_the_stride_says(width, height):
    options = {"grid": "stride", "clip": False}
    want = reference.priors(width, height, **options)
    assert_array_equal(core_priors(width, height, **options), want.astype(np.float32))


def test_without_clip_priors_reach_past_the_input():
    priors = core_priors(320, 240, grid="stride", clip=False)
    # 240 is not a multiple of 64: the last row's centre, 3.5 * 64, is inside; 4 * 64 of size is not.
    assert_array_equal(
        priors[-1], np.float32([4.5 * 64 / 320, 3.5 * 64 / 240, 256 / 320, 256 / 240])
    )
    assert core_priors(330, 240, grid="stride", clip=False)[:, 0].max() > 1
    assert core_priors(330, 240, grid="stride", clip=True)[:, 0].max() == 1


def test_the_wrong_grid_is_up_to_15_pixels_off_at_320x240():
    difference = np.abs(core_priors(320, 240) - core_priors(320, 240, grid="stride"))[:, :2]
    # float32 priors up to 1 are off by 2^-25 each; of pixels, 320 * 2^-24 in all.
    pixels = np.round(difference * (320, 240), 4)
    ends = np.cumsum(
        [
            math.ceil(320 / s) * math.ceil(240 / s) * len(sizes)
            for s, sizes in zip(reference.STRIDES, reference.MIN_SIZES)
        ]
    )
    worst = [level.max(axis=0).tolist() for level in np.split(pixels, ends[:-1])]
    # 8 rows of 32 and 4 of 64 are 256 pixels in an input of 240; the columns divide.
    assert worst == [[0, 0], [0, 0], [0, 15], [0, 14]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (8, 16)}, "different lengths"),
        ({"strides": (8, 16, 32, 0)}, "stride is not positive"),
        ({"width": 0}, "input size is not positive"),
        ({"grid": "hexagon"}, "grid is 'hexagon'; expected one of cell, corner, stride"),
        ({"channels": "hsv"}, "channels is 'hsv'"),
        ({"resize": "crop"}, "resize is 'crop'"),
        ({"encoding": "polar"}, "encoding is 'polar'"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
    ],
)
def test_a_bad_spec_names_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        reference.core_spec(**changes)
