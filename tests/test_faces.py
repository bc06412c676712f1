from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from edgeface import Face, Faces
from edgeface.faces import LANDMARKS

PLAIN = np.float32([[10, 20, 40, 60, 0.9], [1, 2, 3.5, 4, 0.5], [5, 6, 7, 8, 0.25]])
POINTED = np.hstack([PLAIN, np.arange(30, dtype=np.float32).reshape(3, 10)])


@pytest.fixture(params=[PLAIN, POINTED], ids=["boxes", "landmarks"])
def faces(request):
    return Faces(request.param.copy())


def test_arrays_are_views_of_the_rows(faces):
    assert faces.boxes.shape == (3, 4)
    assert faces.scores.shape == (3,)
    faces.rows[1, 0] = 99
    faces.rows[1, 4] = 0.75
    assert faces.boxes[1, 0] == 99
    assert faces.scores[1] == 0.75
    if faces.landmarks is not None:
        assert np.shares_memory(faces.landmarks, faces.rows)


def test_landmarks_are_points_and_none_without():
    assert Faces(PLAIN).landmarks is None
    landmarks = Faces(POINTED).landmarks
    assert landmarks.shape == (3, 5, 2)
    assert_array_equal(landmarks[1, 2], (14, 15))


def test_it_is_a_sequence(faces):
    assert len(faces) == 3
    assert [face.score for face in faces] == [np.float32(s) for s in (0.9, 0.5, 0.25)]
    assert faces[-1] == faces[2]
    assert faces[0] == next(iter(faces))
    assert faces[np.int64(1)] == faces[1]
    assert [face.x1 for face in reversed(faces)] == [5, 1, 10]


@pytest.mark.parametrize("index", [3, -4, 100])
def test_an_index_out_of_range_is_an_index_error(faces, index):
    with pytest.raises(IndexError):
        faces[index]


@pytest.mark.parametrize("part", [slice(1), slice(1, None), slice(None, None, -1), slice(5, 9)])
def test_a_slice_is_faces(faces, part):
    got = faces[part]
    assert isinstance(got, Faces)
    assert_array_equal(got.rows, faces.rows[part])


def test_a_face_has_plain_numbers():
    face = Faces(POINTED)[1]
    assert face.box == (1, 2, 3.5, 4)
    assert (face.width, face.height) == (2.5, 2)
    assert all(type(value) is float for value in (*face.box, face.score))
    assert face.landmarks == ((10, 11), (12, 13), (14, 15), (16, 17), (18, 19))
    assert Faces(PLAIN)[1].landmarks is None


def test_to_dict_is_json(faces):
    read = json.loads(json.dumps(faces.to_dict()))
    assert [face["box"] for face in read["faces"]] == PLAIN[:, :4].tolist()
    assert read["faces"][0]["score"] == float(np.float32(0.9))
    if faces.landmarks is None:
        assert "landmarks" not in read["faces"][0]
    else:
        assert list(read["faces"][0]["landmarks"]) == list(LANDMARKS)
        assert read["faces"][0]["landmarks"]["nose"] == [4, 5]


@pytest.mark.parametrize("columns", [5, 15])
def test_no_faces_are_an_empty_sequence(columns):
    faces = Faces(np.zeros((0, columns), np.float32))
    assert len(faces) == 0
    assert not faces
    assert list(faces) == []
    assert faces.boxes.shape == (0, 4)
    assert faces.to_dict() == {"faces": []}
    if columns == 15:
        assert faces.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 14), (1, 3, 5), ()])
def test_rows_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="rows have shape"):
        Faces(np.zeros(shape, np.float32))


def test_it_is_shown_by_its_number():
    assert repr(Faces(PLAIN)) == "Faces(3 faces)"
    assert repr(Faces(PLAIN[:1])) == "Faces(1 face)"


def test_it_can_be_pickled(faces):
    assert_array_equal(pickle.loads(pickle.dumps(faces)).rows, faces.rows)


def test_a_face_is_a_value():
    face = Faces(PLAIN)[0]
    assert face == Face(*face.box, face.score, None)
    assert len({face, Faces(PLAIN)[0]}) == 1
    with pytest.raises(AttributeError):
        face.x1 = 3


@pytest.mark.parametrize("shape", [(100, 120), (100, 120, 3), (100, 120, 4)])
def test_drawing_paints_a_copy(faces, shape):
    pytest.importorskip("cv2")
    frame = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = frame.copy()
    frame.flags.writeable = False
    picture = faces.draw(frame)
    assert_array_equal(frame, before)
    assert picture.shape == (100, 120, 3)
    bgr = np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame[..., :3]
    changed = (picture != bgr).any(axis=2)
    # The first box's edges, and nothing far from all of them.
    assert changed[60, 12:38].mean() > 0.9
    assert not changed[75:].any()
    assert not changed[:, 90:].any()


def test_drawing_no_faces_gives_the_frame():
    pytest.importorskip("cv2")
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    picture = Faces(PLAIN[:0]).draw(frame)
    assert_array_equal(picture, frame)
    assert not np.shares_memory(picture, frame)


def test_drawing_works_on_strided_and_tiny_frames(faces):
    pytest.importorskip("cv2")
    for frame in (np.zeros((1, 1, 3), np.uint8), np.zeros((40, 60, 3), np.uint8)[::-2, ::-2, ::-1]):
        assert faces.draw(frame).shape == frame.shape
