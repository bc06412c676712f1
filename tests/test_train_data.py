from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from edgeface import cli
from edgeface.cli import train_prepare
from edgeface.errors import DataError
from edgeface.train import prepare as preparation
from edgeface.train.painting import paint
from edgeface.train.prepare import FATES, Options, fates, prepare, prepare_sample
from edgeface.train.preview import TILE, choose, contact_sheet
from edgeface.train.readers import FORMATS, image_size, open_dataset
from edgeface.train.samples import Sample, Source, open_archive, trainable
from reference import SHARED, needs_shared

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")

FACES = SHARED / "data" / "faces"
POINTS = [10.0, 11.0, 20.0, 12.0, 15.0, 16.0, 11.0, 21.0, 19.0, 22.0]


# --- Data sets to read --------------------------------------------------------------------------------


def picture(width=64, height=48, seed=0):
    """Smooth, so that JPEG keeps it nearly."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image, suffix=".png"):
    return cv2.imencode(suffix, image)[1].tobytes()


def write_picture(path, width=64, height=48, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(width, height, seed), path.suffix))


def line(image, boxes, width=64, height=48, **more):
    return {"image": image, "width": width, "height": height, "boxes": boxes, **more}


def write_folder(folder, rows, files=()):
    """`files` are those images that are not to be 64 x 48 pictures: name -> bytes."""
    for row in rows:
        if isinstance(row, dict):
            write_picture(folder / row["image"], row["width"], row["height"])
    for name, data in dict(files).items():
        (folder / name).write_bytes(data)
    folder.mkdir(exist_ok=True)
    lines = (json.dumps(row) if isinstance(row, dict) else row for row in rows)
    (folder / "annotations.jsonl").write_text("".join(f"{text}\n" for text in lines))
    return folder


def packed(folder):
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname="")
    return path


def sample_of(boxes, size=(320, 240), ignore=None, invalid=None, encoded=None):
    count = len(boxes)
    return Sample(
        name="a picture",
        size=size,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        ignore=np.zeros(count, bool) if ignore is None else np.array(ignore, bool),
        landmarks=np.full((count, 5, 2), np.nan, np.float32),
        encoded=encoded or Source(Path("nowhere")),
        invalid=None if invalid is None else np.array(invalid, bool),
    )


def stored_sample(path, image, boxes, **more):
    path.write_bytes(encoded(image))
    return sample_of(boxes, (image.shape[1], image.shape[0]), encoded=Source(path), **more)


@pytest.fixture
def folder(tmp_path):
    """Two images, of one face and of three: a good one, one to ignore and a small one."""
    rows = [
        line("images/a.png", [[8, 8, 24, 30]], landmarks=[POINTS]),
        line(
            "images/b.png",
            [[1, 2, 20, 30], [30.25, 5, 20, 30], [55, 40, 1.5, 1.8]],
            ignore=[0, 1, 0],
            landmarks=[None, POINTS, None],
        ),
    ]
    return write_folder(tmp_path / "data", rows)


# --- Samples ------------------------------------------------------------------------------------------


def test_folder_and_archive_give_the_same_samples(folder):
    ours, archived = (trainable(open_archive(p)) for p in (folder, packed(folder)))
    assert [sample.name for sample in ours] == [f"{folder}/images/{n}.png" for n in "ab"]
    for one, other in zip(ours, archived):
        assert one.size == other.size == (64, 48)
        for name in ("boxes", "ignore", "landmarks"):
            assert_array_equal(getattr(one, name), getattr(other, name))
        assert_array_equal(one.read(), picture())
        assert_array_equal(other.read(), picture())
    assert_array_equal(ours[1].boxes[1], np.float32([30.25, 5, 50.25, 35]))
    assert_array_equal(ours[1].ignore, [False, True, False])
    assert_array_equal(ours[1].landmarks[1].ravel(), np.float32(POINTS))
    assert np.isnan(ours[1].landmarks[[0, 2]]).all()
    assert ours[0].boxes.dtype == ours[0].landmarks.dtype == np.float32


BROKEN_LINES = {
    "not JSON": "{",
    "not a JSON object": "[1]",
    "name is None": json.dumps({"width": 4, "height": 4, "boxes": []}),
    "leads out": json.dumps(line("../a.png", [])),
    "has no images/gone.png": json.dumps(line("images/gone.png", [])),
    "width and height are 0 and 48": json.dumps(line("images/a.png", [], width=0)),
    "width and height are '64' and 48": json.dumps(line("images/a.png", [], width="64")),
    "boxes is not a list of 4 numbers": json.dumps(line("images/a.png", [[1, 2, 3]])),
    "boxes is not": json.dumps(line("images/a.png", [["1", "2", "3", "4"]])),
    "boxes is not a": json.dumps(line("images/a.png", [[1, 2, 3, 4], [1]])),
    "ignore has 2 entries for 1 boxes": json.dumps(
        line("images/a.png", [[1, 2, 3, 4]], ignore=[0, 1])
    ),
    "ignore is not a list of 0 and 1": json.dumps(line("images/a.png", [[1, 2, 3, 4]], ignore=[5])),
    "landmarks has 0 entries": json.dumps(line("images/a.png", [[1, 2, 3, 4]], landmarks=[])),
    "is not a list of 10 numbers": json.dumps(
        line("images/a.png", [[1, 2, 3, 4]], landmarks=[[1, 2]])
    ),
    "has no area": json.dumps(line("images/a.png", [[1, 2, 0, 4]])),
    "nan": json.dumps(line("images/a.png", [[1, 2, float("nan"), 4]])),
}


@pytest.mark.parametrize(("message", "text"), BROKEN_LINES.items(), ids=BROKEN_LINES)
def test_broken_line_names_its_place_and_spoils_no_other(tmp_path, message, text):
    good = line("images/a.png", [[1, 2, 30, 40]])
    folder = write_folder(tmp_path / "data", [good, text])
    with pytest.raises(DataError) as caught:
        trainable(open_archive(folder))
    assert message in str(caught.value)
    # A box is found bad when the line has been read.
    assert "annotations.jsonl line 2" in str(caught.value) or "images/a.png" in str(caught.value)
    assert isinstance(next(iter(open_archive(folder))), Sample)


def test_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no annotations\.jsonl"):
        open_archive(tmp_path)


def test_compressed_archive_is_refused_by_name(tmp_path):
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("annotations.jsonl"), io.BytesIO())
    with pytest.raises(DataError, match=r"data\.tar: not a \.tar without compression"):
        open_archive(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the image is empty"),
        (b"no picture", "damaged, or not a picture"),
        (encoded(picture(32, 48)), "is 32x48, its label says 64x48"),
        (encoded(picture())[:60], "damaged, or not a picture"),
    ],
)
def test_image_that_cannot_be_used_is_named(tmp_path, data, message):
    folder = write_folder(
        tmp_path / "data", [line("images/a.png", [])], files={"images/a.png": data}
    )
    (sample,) = trainable(open_archive(folder))
    with pytest.raises(DataError, match=message) as caught:
        sample.read()
    assert "images/a.png" in str(caught.value)


def exif_rotated(jpeg):
    """The JPEG with an EXIF orientation of 6: shown turned by 90 degrees."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


def test_pixels_are_those_stored_when_exif_says_to_turn_them(tmp_path):
    path = tmp_path / "turned.jpg"
    path.write_bytes(exif_rotated(encoded(picture(), ".jpg")))
    assert cv2.imread(str(path)).shape == (64, 48, 3)  # or the EXIF data is not understood
    assert image_size.image_size("turned.jpg", Source(path)) == (64, 48)
    assert sample_of([], (64, 48), encoded=Source(path)).read().shape == (48, 64, 3)


# --- Readers ------------------------------------------------------------------------------------------

WIDER_TEXT = """\
0--Parade/a.jpg
2
8 8 24 30 0 0 0 0 0 0
1 2 20 0 2 0 0 1 0 0
0--Parade/none.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/b.jpg
1
3 4 20 30 1 0 0 0 2 1
"""
WIDER_NAMES = ("0--Parade/a", "0--Parade/none", "1--Handshaking/b")


@pytest.fixture
def wider(tmp_path):
    for i, name in enumerate(WIDER_NAMES):
        write_picture(tmp_path / "WIDER_train" / "images" / f"{name}.jpg", 60 + i, 50)
    labels = tmp_path / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    labels.parent.mkdir()
    labels.write_text(WIDER_TEXT)
    return tmp_path


def check_wider(dataset, root, split="train"):
    assert dataset.format == "wider"
    a, none, b = dataset
    assert [s.name for s in (a, none, b)] == [
        f"{root}/WIDER_{split}/images/{name}.jpg" for name in WIDER_NAMES
    ]
    assert [s.size for s in (a, none, b)] == [(60, 50), (61, 50), (62, 50)]
    assert_array_equal(a.boxes, [[8, 8, 32, 38], [1, 2, 21, 2]])
    assert_array_equal(a.invalid, [False, True])
    assert none.boxes.shape == (0, 4)
    assert none.landmarks.shape == (0, 5, 2)
    assert_array_equal(b.boxes, [[3, 4, 23, 34]])
    assert not b.invalid.any()
    assert not b.ignore.any()
    assert np.isnan(b.landmarks).all()
    assert b.read().shape == (50, 62, 3)


def test_wider_text_has_boxes_flags_and_images_without_faces(wider):
    check_wider(open_dataset(wider), wider)
    check_wider(open_dataset(wider / "wider_face_split" / "wider_face_train_bbx_gt.txt"), wider)


@pytest.mark.parametrize("split", ["train", "val"])
def test_wider_images_find_the_labels_of_their_split_beside_them(wider, monkeypatch, split):
    images, labels = wider / f"WIDER_{split}", wider / "wider_face_split"
    if split == "val":
        shutil.copytree(wider / "WIDER_train", images)
        (labels / "wider_face_val_bbx_gt.txt").write_text(WIDER_TEXT)
    check_wider(open_dataset(images), wider, split)
    monkeypatch.chdir(images)
    check_wider(open_dataset(Path()), wider, split)


def test_wider_images_without_labels_of_their_split_are_no_data_set(wider):
    (wider / "WIDER_train").rename(wider / "WIDER_val")
    with pytest.raises(DataError, match="no data set found"):
        open_dataset(wider / "WIDER_val")


def cell(items):
    array = np.empty((len(items), 1), object)
    array[:, 0] = items
    return array


def mat_lists():
    """Per event, per image: names, boxes and invalid flags of WIDER_TEXT."""
    names = [["a", "none"], ["b"]]
    boxes = [[[[8, 8, 24, 30], [1, 2, 20, 0]], np.zeros((0, 4))], [[[3, 4, 20, 30]]]]
    flags = [[[[0], [1]], np.zeros((0, 1))], [[[0]]]]
    return ["0--Parade", "1--Handshaking"], names, boxes, flags


def test_wider_mat_says_the_same_as_the_text(wider):
    savemat = pytest.importorskip("scipy.io", reason="SciPy is not installed").savemat
    events, names, boxes, flags = mat_lists()
    # savemat writes a bare string as characters: each name is in a cell of its own.
    files = cell([cell([np.array([name]) for name in group]) for group in names])
    content = {"event_list": cell(events), "file_list": files}
    for key, groups in (("face_bbx_list", boxes), ("invalid_label_list", flags)):
        content[key] = cell([cell([np.array(a, float) for a in group]) for group in groups])
    path = wider / "wider_face_split" / "wider_face_train.mat"
    savemat(path, content)
    check_wider(open_dataset(path), wider)


def write_hdf5(path):
    """As MATLAB 7.3 does: strings are columns of codes, cells references, arrays transposed."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    events, names, boxes, flags = mat_lists()
    numbers = itertools.count()

    with h5py.File(path, "w", userblock_size=512) as file:

        def stored(value):
            name = f"#refs#/{next(numbers)}"
            if isinstance(value, str):
                data = file.create_dataset(name, data=np.array([list(map(ord, value))], "u2").T)
                data.attrs["MATLAB_class"] = np.bytes_("char")
            elif isinstance(value, tuple):
                data = cells(name, value)
            elif np.size(value) == 0:
                data = file.create_dataset(name, data=np.array(np.shape(value), "u8"))
                data.attrs["MATLAB_empty"] = np.uint8(1)
            else:
                data = file.create_dataset(name, data=np.array(value, float).T)
            return data.ref

        def cells(name, values):
            references = np.array([[stored(value) for value in values]], h5py.ref_dtype)
            return file.create_dataset(name, data=references, dtype=h5py.ref_dtype)

        cells("event_list", events)
        cells("file_list", [tuple(group) for group in names])
        cells("face_bbx_list", [tuple(group) for group in boxes])
        cells("invalid_label_list", [tuple(group) for group in flags])
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116))


def test_wider_mat_of_matlab_73_says_the_same_as_the_text(wider):
    path = wider / "wider_face_split" / "wider_face_train.mat"
    write_hdf5(path)
    check_wider(open_dataset(path), wider)


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file", b"MATLAB 5.0 MAT-file" * 20])
def test_damaged_mat_is_named(wider, content):
    pytest.importorskip("scipy.io", reason="SciPy is not installed")
    pytest.importorskip("h5py", reason="h5py is not installed")
    path = wider / "wider_face_train.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"wider_face_train\.mat"):
        open_dataset(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n2\n", "\n3\n", "2 lines of faces where 3 were announced"),
        ("\n2\n", "\ntwo\n", "no count of faces"),
        ("8 8 24 30 0", "8 8 x 30 0", "is not numbers"),
        ("8 8 24 30 0", "8 8 24 30", "9 numbers"),
        ("0--Parade/a.jpg", "0--Parade/gone.jpg", "no image"),
        ("0--Parade/a.jpg", "/etc/a.jpg", "leads out of the data set"),
    ],
)
def test_broken_wider_record_names_its_line_and_spoils_no_other(wider, old, new, message):
    labels = wider / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    labels.write_text(WIDER_TEXT.replace(old, new, 1))
    first, none, last = open_dataset(wider)
    assert isinstance(first, DataError)
    assert message in str(first)
    assert f"{labels} line 1" in str(first)
    assert isinstance(none, Sample)
    assert isinstance(last, Sample)


LABEL_TEXT = """\
# 0--Parade/a.jpg
8 8 24 30 10 11 0.0 20 12 0.0 15 16 0.0 11 21 0.0 19 22 0.0 0.82
1 2 20 30 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 0.1
# 0--Parade/b.jpg
3 4 20 30
"""


def test_label_text_has_landmarks_where_they_are(tmp_path):
    for name in "ab":
        write_picture(tmp_path / "images" / "0--Parade" / f"{name}.jpg")
    (tmp_path / "label.txt").write_text(LABEL_TEXT)
    dataset = open_dataset(tmp_path)
    assert dataset.format == "label"
    a, b = dataset
    assert_array_equal(a.boxes, [[8, 8, 32, 38], [1, 2, 21, 32]])
    assert_array_equal(a.landmarks[0].ravel(), POINTS)
    assert np.isnan(a.landmarks[1]).all()
    assert_array_equal(b.boxes, [[3, 4, 23, 34]])
    assert b.size == (64, 48)


def test_label_text_with_a_wrong_count_of_numbers_is_named(tmp_path):
    write_picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "label.txt").write_text("# a.jpg\n1 2 3 4 5\n")
    (error,) = open_dataset(tmp_path)
    assert "label.txt line 1" in str(error)
    assert "5 numbers" in str(error)


def voc_object(name, corners, difficult=0):
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox></object>"
    )


def write_voc(folder, objects, filename="a.jpg"):
    write_picture(folder / "JPEGImages" / "a.jpg")
    (folder / "Annotations").mkdir(exist_ok=True)
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    (folder / "Annotations" / "a.xml").write_text(
        f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>"
    )
    return folder


@pytest.mark.parametrize("filename", ["a.jpg", "a", ""])
def test_voc_counts_from_one_and_difficult_faces_are_ignored(tmp_path, filename):
    objects = [voc_object("face", (1, 1, 64, 48)), voc_object("Face", (5, 6, 20, 30), 1)]
    dataset = open_dataset(write_voc(tmp_path, objects, filename))
    assert dataset.format == "voc"
    (sample,) = dataset
    # The whole image is 1 to width in VOC's numbers.
    assert_array_equal(sample.boxes, [[0, 0, 64, 48], [4, 5, 20, 30]])
    assert_array_equal(sample.ignore, [False, True])
    assert sample.read().shape == (48, 64, 3)


def test_voc_class_that_may_be_a_face_is_refused_until_it_is_named(tmp_path):
    objects = [voc_object("head", (1, 1, 30, 40)), voc_object("person", (1, 1, 64, 48))]
    write_voc(tmp_path, objects)
    (error,) = open_dataset(tmp_path)
    assert "is class 'head' a face?" in str(error)
    assert "--classes" in str(error)
    (sample,) = open_dataset(tmp_path, classes=["head"])
    assert_array_equal(sample.boxes, [[0, 0, 30, 40]])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>1<", "<xmin>one<", "bndbox/xmin is 'one'"),
        ("<xmin>1<", "<xmin>nan<", "bndbox/xmin is 'nan'"),
        ("<width>64</width>", "", "size/width is ''"),
        ("a.jpg", "../a.jpg", "leads out"),
        ("</annotation>", "", "a.xml"),
    ],
)
def test_broken_voc_annotation_is_named(tmp_path, old, new, message):
    write_voc(tmp_path, [voc_object("face", (1, 1, 30, 40))])
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace(old, new, 1))
    (error,) = open_dataset(tmp_path)
    assert isinstance(error, DataError)
    assert message in str(error)
    assert str(file) in str(error)


COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "face"}],
    "annotations": [
        {
            "image_id": 7,
            "category_id": 1,
            "bbox": [8, 8, 24, 30],
            "keypoints": [v for x, y in zip(POINTS[::2], POINTS[1::2]) for v in (x, y, 2)],
        },
        {"image_id": 7, "category_id": 1, "bbox": [1, 2, 20, 30], "iscrowd": 1},
        {"image_id": 7, "category_id": 1, "bbox": [3, 4, 20, 30], "keypoints": [0] * 15},
    ],
}


@pytest.mark.parametrize("place", ["images", "train", "annotations", "images/train"])
def test_coco_finds_its_images_and_has_crowds_and_key_points(tmp_path, place):
    write_picture(tmp_path / place / "a.jpg")
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / "faces_train.json").write_text(json.dumps(COCO))
    dataset = open_dataset(tmp_path)
    assert dataset.format == "coco"
    (sample,) = dataset
    assert_array_equal(sample.boxes, [[8, 8, 32, 38], [1, 2, 21, 32], [3, 4, 23, 34]])
    assert_array_equal(sample.ignore, [False, True, False])
    assert_array_equal(sample.landmarks[0].ravel(), POINTS)
    assert np.isnan(sample.landmarks[1:]).all()
    assert sample.read().shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": 7, "file_name": "a.jpg"}]}, "width and height are None and None"),
        ({"annotations": [{"image_id": 7, "category_id": 2, "bbox": [1] * 4}]}, "class '?'"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": [1]}]}, "bbox is not a list"),
        ({"annotations": [{"image_id": 7, "category_id": 1}]}, "bbox is not a list"),
    ],
)
def test_broken_coco_image_is_named(tmp_path, change, message):
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "faces.json").write_text(json.dumps({**COCO, **change}))
    (error,) = open_dataset(tmp_path)
    assert isinstance(error, DataError)
    assert message in str(error)
    assert "faces.json image 7" in str(error)


@pytest.mark.parametrize("content", ["{", "[]", '{"images": {}}', '{"images": [1]}'])
def test_json_that_is_not_coco_is_named(tmp_path, content):
    (tmp_path / "faces.json").write_text(content)
    with pytest.raises(DataError, match=r"faces\.json: not"):
        open_dataset(tmp_path)


def test_nothing_found_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path)
    for name, text in FORMATS.items():
        assert f"{name}: {text}" in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        open_dataset(tmp_path / "gone")


def test_format_given_is_the_only_one_looked_for(folder):
    write_voc(folder, [])
    assert open_dataset(folder).format == "edgeface"
    assert open_dataset(folder, "voc").format == "voc"
    with pytest.raises(DataError, match=r"Looked for wider: [^:]*$"):
        open_dataset(folder, "wider")
    with pytest.raises(ValueError, match="expected one of edgeface, wider"):
        open_dataset(folder, "yolo")


def test_labels_without_their_images_say_where_they_were_looked_for(wider):
    (wider / "WIDER_train").rename(wider / "elsewhere")
    with pytest.raises(DataError, match=r"such as 0--Parade/a\.jpg, in: .*WIDER_train/images"):
        open_dataset(wider)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (300, 7)])
def test_jpeg_size_is_that_of_the_decoded_image(size, progressive):
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    data = cv2.imencode(".jpg", picture(*size), options)[1].tobytes()
    assert image_size.jpeg_size(data) == size
    assert image_size.jpeg_size(exif_rotated(data)) == size
    for cut in range(len(data)):
        assert image_size.jpeg_size(data[:cut]) in (size, None)


@given(st.binary(max_size=40))
def test_jpeg_size_of_garbage_ends(data):
    image_size.jpeg_size(b"\xff\xd8" + data)


def labelled(folder, name):
    """A small data set of each format, and its file of labels."""
    for image in ("a.jpg", "0--Parade/a.jpg", "0--Parade/none.jpg", "0--Parade/b.jpg"):
        write_picture(folder / "images" / image)
    files = {
        "edgeface": (
            "annotations.jsonl",
            json.dumps(line("images/a.jpg", [[1, 2, 3, 4]], landmarks=[POINTS])),
        ),
        "wider": ("wider_face_train_bbx_gt.txt", WIDER_TEXT),
        "label": ("label.txt", LABEL_TEXT),
        "coco": ("faces.json", json.dumps(COCO)),
    }
    if name == "voc":
        write_voc(folder, [voc_object("face", (1, 1, 30, 40))])
        return folder / "Annotations" / "a.xml"
    file, text = files[name]
    (folder / file).write_text(text)
    return folder / file


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_labels_give_samples_or_data_errors(tmp_path, name):
    path = labelled(tmp_path, name)
    whole = path.read_bytes()
    assert all(isinstance(item, Sample) for item in [*open_dataset(tmp_path, name)][:1])
    random = np.random.default_rng(3)
    tokens = [
        b"-1",
        b"1e999",
        b"1e99",
        b"null",
        b"[]",
        b"{}",
        b'"',
        b"\n",
        b"nan",
        b"\xff",
        b"",
        b"0",
        b"<",
    ]
    for _ in range(150):
        start, cut = random.integers(0, len(whole)), random.choice([0, 1, 2, 20])
        token = tokens[random.integers(len(tokens))]
        path.write_bytes(whole[:start] + token + whole[start + cut :])
        with contextlib.suppress(DataError):
            for item in open_dataset(tmp_path, name):
                assert isinstance(item, (Sample, DataError))
                if isinstance(item, Sample):
                    fates(item, Options())


# --- What becomes of a face -----------------------------------------------------------------------------


def fate_reference(box, size, training, min_face, invalid):
    """One face, step by step."""
    x1, y1, x2, y2 = map(float, box)
    if invalid or not np.isfinite([x1, y1, x2, y2]).all():
        return "invalid"
    if x2 - x1 < 1 or y2 - y1 < 1:
        return "degenerate"
    width = min(max(x2, 0), size[0]) - min(max(x1, 0), size[0])
    height = min(max(y2, 0), size[1]) - min(max(y1, 0), size[1])
    if width < 1 or height < 1:
        return "outside"
    at_training = width * training[0] / size[0], height * training[1] / size[1]
    return "small" if max(at_training) < min_face else "kept"


def test_fates_are_those_of_a_plain_loop():
    random = np.random.default_rng(5)
    corners = random.uniform(-30, 130, (4000, 2)).round(1)
    sides = random.choice([-3.0, 0.0, 0.5, 1.0, 5.0, 12.3, 40.0], (4000, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    boxes[::50, random.integers(0, 4)] = np.nan
    boxes[1::50, random.integers(0, 4)] = np.inf
    invalid = random.random(4000) < 0.02
    size, options = (100, 90), Options(min_face=13, size=(128, 96))
    found = fates(sample_of(boxes, size, invalid=invalid), options)
    expected = [fate_reference(b, size, (128, 96), 13, i) for b, i in zip(boxes, invalid)]
    assert found.tolist() == expected
    assert set(expected) == set(FATES)


@pytest.mark.parametrize(
    ("box", "fate"),
    [
        ((0, 0, 20, 20), "kept"),  # 10 x 10 at training resolution
        ((0, 0, 19.9, 19.9), "small"),
        ((0, 0, 19.9, 20), "kept"),  # the longer side counts
        ((0, 0, 20, 2), "kept"),
        ((-10, 0, 10, 19.9), "small"),  # what is seen of it counts
    ],
)
def test_small_is_measured_on_the_longer_side_at_training_resolution(box, fate):
    assert fates(sample_of([box], (640, 480)), Options()).tolist() == [fate]


def test_fates_of_an_image_without_faces_are_none():
    assert fates(sample_of([]), Options()).tolist() == []


# --- Painting ---------------------------------------------------------------------------------------------


def test_painted_face_takes_the_colour_around_it():
    image = np.full((40, 60, 3), (30, 90, 200), np.uint8)
    face = image.copy()
    face[10:15, 20:24] = 255
    box = np.array([[20.0, 10.0, 24.0, 15.0]])
    assert_array_equal(paint(face, box, protected=np.zeros((0, 4))), image)
    assert (face[10:15, 20:24] == 255).all()  # the argument is left alone


def test_every_pixel_that_a_box_touches_is_painted_and_no_other():
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    painted = paint(image, np.array([[10.9, 5.1, 14.1, 9.0]]), protected=np.zeros((0, 4)))
    inside = np.zeros((30, 40), bool)
    inside[5:9, 10:15] = True
    assert_array_equal(painted[~inside], image[~inside])
    # The ring: half the longer side, at least 2 pixels, around 10.9..14.1 and 5.1..9.0.
    ring = np.zeros_like(inside)
    ring[3:11, 8:17] = True
    mean = image[ring & ~inside].astype(float).mean(0)
    assert_allclose(painted[inside], np.broadcast_to(mean, (20, 3)), atol=0.5)


def test_faces_that_stay_are_neither_painted_nor_mixed_in():
    image = np.full((30, 40, 3), 80, np.uint8)
    image[:, 20:] = 250  # a face that stays
    image[12:16, 18:20] = 0
    small = np.array([[18.0, 12.0, 22.0, 16.0]])
    painted = paint(image, small, protected=np.array([[20.0, 0.0, 40.0, 30.0]]))
    assert (painted[:, :20] == 80).all()
    assert (painted[:, 20:] == 250).all()


def test_nothing_to_paint_gives_the_same_array():
    image = picture()
    none, whole = np.zeros((0, 4)), np.array([[0.0, 0.0, 64.0, 48.0]])
    assert paint(image, none, protected=none) is image
    assert paint(image, np.array([[3.0, 3.0, 9.0, 9.0]]), protected=whole) is image


def test_image_painted_all_over_takes_its_mean():
    image = np.zeros((10, 10, 3), np.uint8)
    image[:5] = 100
    painted = paint(image, np.array([[0.0, 0.0, 10.0, 10.0]]), protected=np.zeros((0, 4)))
    assert (painted == 50).all()


# --- Preparing ----------------------------------------------------------------------------------------------


def test_prepared_sample_has_its_small_and_invalid_faces_painted_over(tmp_path):
    image = np.full((240, 320, 3), 70, np.uint8)
    boxes = [[20, 20, 60, 80], [100, 100, 108, 109], [200, 50, 240, 90], [150, 10, 150, 20]]
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = 200
    sample = stored_sample(tmp_path / "a.png", image, boxes, invalid=[0, 0, 1, 0])
    prepared = prepare_sample(sample, Options())
    expected = np.full_like(image, 70)
    expected[20:80, 20:60] = 200
    assert_array_equal(prepared.image, expected)
    assert_array_equal(prepared.boxes, [boxes[0]])
    assert_array_equal(prepared.painted, boxes[1:3])
    assert {name: prepared.counts[name] for name in (*FATES, "faces", "painted")} == {
        "kept": 1,
        "small": 1,
        "invalid": 1,
        "degenerate": 1,
        "outside": 0,
        "faces": 4,
        "painted": 1,
    }


def test_box_that_is_not_finite_is_dropped_and_paints_nothing(tmp_path):
    boxes = [[10, 10, np.inf, 40], [np.nan, 10, 30, 40]]
    prepared = prepare_sample(stored_sample(tmp_path / "a.png", picture(), boxes), Options())
    assert prepared.image is None
    assert (prepared.counts["invalid"], prepared.counts["kept"]) == (2, 0)


def test_ignored_face_is_kept_as_ignored_and_painted_when_small(tmp_path):
    boxes = [[20, 20, 60, 80], [100, 100, 105, 105]]
    sample = stored_sample(tmp_path / "a.png", picture(320, 240), boxes, ignore=[1, 1])
    prepared = prepare_sample(sample, Options())
    assert_array_equal(prepared.boxes, boxes[:1])
    assert prepared.ignore.tolist() == [True]
    assert (prepared.counts["ignored"], prepared.counts["without_faces"]) == (1, 1)


def test_boxes_are_clipped_to_the_image(tmp_path):
    sample = stored_sample(tmp_path / "a.png", picture(), [[-5, 10, 30, 60], [1, 1, 40, 40]])
    prepared = prepare_sample(sample, Options())
    assert_array_equal(prepared.boxes, [[0, 10, 30, 48], [1, 1, 40, 40]])
    assert prepared.counts["clipped"] == 1
    assert prepared.image is None


def test_large_image_is_reduced_with_its_boxes_and_landmarks(tmp_path):
    sample = stored_sample(tmp_path / "a.png", picture(1000, 501), [[100, 50, 400, 500]])
    points = np.array(POINTS, np.float32).reshape(1, 5, 2) * 20
    sample = dataclasses.replace(sample, landmarks=points)
    prepared = prepare_sample(sample, Options(max_side=500))
    assert prepared.size == (500, 250)
    assert prepared.image.shape == (250, 500, 3)
    down = 250 / 501
    assert_allclose(prepared.boxes, [[50, 50 * down, 200, 500 * down]], rtol=1e-12)
    assert_allclose(prepared.landmarks, points * [0.5, down], rtol=1e-12)
    assert prepare_sample(sample, Options(max_side=None)).image is None


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_written_archive_is_read_again(folder, tmp_path, name):
    output = tmp_path / name
    report = prepare([open_dataset(folder)], output, Options())
    a, b = trainable(open_archive(output))
    assert_array_equal(a.boxes, [[8, 8, 32, 38]])
    assert_array_equal(a.landmarks[0].ravel(), POINTS)
    # Nothing changed in it: not encoded again.
    assert a.encoded.read() == (folder / "images" / "a.png").read_bytes()
    assert a.name == f"{output}/images/data/images/a.png"
    # The small one is gone, and the image a JPEG.
    assert b.name.endswith("b.jpg")
    assert_array_equal(b.boxes, [[1, 2, 21, 32], [30.25, 5, 50.25, 35]])
    assert_array_equal(b.ignore, [False, True])
    assert_allclose(b.read(), picture().astype(float), atol=40)
    assert report.total == {
        "images": 2,
        "painted": 1,
        "faces": 4,
        "kept": 3,
        "small": 1,
        "ignored": 1,
        "with_landmarks": 2,
    }
    beside = output / "report.json" if name == "out" else tmp_path / "out.report.json"
    written = json.loads(beside.read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert written["sources"]["data"]["small"] == 1
    assert sorted(p.name for p in tmp_path.iterdir() if ".partial" in p.name) == []


def content(path):
    if path.is_file():
        return path.read_bytes()
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("names", [("1", "2"), ("1.tar", "2.tar")])
def test_same_input_gives_the_same_bytes(folder, tmp_path, names):
    first, second = (tmp_path / name for name in names)
    for output in (first, second):
        prepare([open_dataset(folder)], output, Options())
    assert content(first) == content(second)


def test_preparing_again_changes_nothing_but_names(folder, tmp_path):
    prepare([open_dataset(folder)], tmp_path / "one", Options())
    report = prepare([open_dataset(tmp_path / "one")], tmp_path / "two", Options())
    assert (report.total["painted"], report.total["small"]) == (0, 0)
    pairs = zip(*(trainable(open_archive(tmp_path / name)) for name in ("one", "two")))
    for one, two in pairs:
        assert_array_equal(one.boxes, two.boxes)
        assert_array_equal(one.landmarks, two.landmarks)
        assert one.encoded.read() == two.encoded.read()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-40, 400, width=32)] * 4), min_size=1, max_size=8))
def test_written_boxes_are_those_prepared_to_a_hundredth_and_inside(tmp_path_factory, boxes):
    folder = tmp_path_factory.mktemp("boxes")
    options = Options(min_face=0, max_side=100)
    sample = stored_sample(folder / "a.png", picture(333, 177), boxes)
    prepared = prepare_sample(sample, options)
    values = preparation._values("images/a.png", prepared)
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(encoded(picture(100, 53)))
    (folder / "annotations.jsonl").write_text(json.dumps(values))
    (read,) = trainable(open_archive(folder))
    # Half of the last decimal, and float32 near 100.
    assert_allclose(read.boxes, prepared.boxes, rtol=0, atol=0.005 + 100 * 2**-24)
    assert (read.boxes >= 0).all()
    assert (read.boxes <= np.tile(read.size, 2)).all()


@pytest.fixture
def damaged(folder):
    """The folder of two images, and one between them that is no picture."""
    lines = (folder / "annotations.jsonl").read_text().splitlines()
    lines.insert(1, json.dumps(line("images/bad.png", [[1, 2, 30, 40]])))
    lines.append("{")
    (folder / "images" / "bad.png").write_bytes(b"no picture")
    (folder / "annotations.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_broken_image_is_fatal_and_leaves_nothing(damaged, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"images/bad\.png: damaged"):
        prepare([open_dataset(damaged)], tmp_path / name, Options())
    assert sorted(tmp_path.rglob("*")) == before


def test_broken_image_and_label_are_skipped_and_reported(damaged, tmp_path):
    report = prepare([open_dataset(damaged)], tmp_path / "out", Options(on_error="skip"))
    assert len(trainable(open_archive(tmp_path / "out"))) == 2
    assert (report.total["images"], report.total["skipped"]) == (2, 2)
    image, label = report.problems
    assert "images/bad.png" in image
    assert "annotations.jsonl line 4: not JSON" in label


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_interrupted_preparation_leaves_the_old_archive(folder, tmp_path, name):
    output = tmp_path / name
    prepare([open_dataset(folder)], output, Options())
    before = content(output)

    def interrupted(items, unit, total):
        assert (unit, total) == ("image", 2)
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([open_dataset(folder)], output, Options(), force=True, progress=interrupted)
    assert content(output) == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_output_is_replaced_only_by_force(folder, tmp_path, name):
    output = tmp_path / name
    datasets = [open_dataset(folder)]
    prepare(datasets, output, Options())
    with pytest.raises(FileExistsError, match="--force"):
        prepare(datasets, output, Options())
    prepare(datasets, output, Options(min_face=0), force=True)
    assert sum(len(s.boxes) for s in trainable(open_archive(output))) == 4
    assert not list(tmp_path.glob(".*"))


def test_folder_that_prepare_did_not_write_is_never_replaced(folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "letters.txt").write_text("dear")
    with pytest.raises(FileExistsError, match=r"has no annotations\.jsonl"):
        prepare([open_dataset(folder)], home, Options(), force=True)
    assert (home / "letters.txt").read_text() == "dear"


def test_output_that_would_destroy_an_input_is_refused(folder, tmp_path):
    dataset = open_dataset(folder)
    for output in (folder, tmp_path):
        with pytest.raises(ValueError, match="would overwrite the input"):
            prepare([dataset], output, Options(), force=True)
    with pytest.raises(ValueError, match="given twice"):
        prepare([dataset, dataset], tmp_path / "out", Options())
    with pytest.raises(ValueError, match=r"expected a \.tar"):
        prepare([dataset], tmp_path / "out.tar.gz", Options())


def test_data_set_that_models_are_compared_on_is_refused(tmp_path):
    rows = [line("images/a.png", [[1, 2, 30, 40]], wider_keep={"easy": [0]})]
    dataset = open_dataset(write_folder(tmp_path / "data", rows))
    with pytest.raises(DataError, match="held out for evaluation"):
        prepare([dataset], tmp_path / "out", Options())


def test_names_that_are_the_same_are_told_apart(tmp_path):
    rows = [line("x/a.png", [[60, 40, 1.5, 1.8]]), line("x/a.bmp", [[60, 40, 1.5, 1.8]])]
    folders = [write_folder(tmp_path / name / "data", rows) for name in ("one", "two")]
    report = prepare([open_dataset(f) for f in folders], tmp_path / "out", Options())
    names = [s.name for s in trainable(open_archive(tmp_path / "out"))]
    assert names == [
        f"{tmp_path}/out/images/{source}/x/{name}.jpg"
        for source in ("data", "data-2")
        for name in ("a", "a-2")
    ]
    assert list(report.sources) == ["data", "data-2"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_face": -1},
        {"min_face": float("nan")},
        {"size": (0, 240)},
        {"max_side": 0},
        {"quality": 101},
        {"on_error": "raise"},
    ],
)
def test_option_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is "):
        Options(**wrong)


# --- Preview --------------------------------------------------------------------------------------------------


def test_preview_shows_half_of_what_was_painted():
    big, small = [[10, 10, 60, 60]], [[10, 10, 12, 12]]
    samples = [sample_of(small if i % 10 == 3 else big) for i in range(100)]
    shown = choose(samples, Options(), 8)
    assert [s.boxes[0, 2] == 12 for s in shown].count(True) == 4
    assert len({id(s) for s in shown}) == 8
    assert len(choose(samples, Options(), 1)) == 1
    assert choose(samples[:3], Options(), 8) == samples[:3]


def test_sheet_has_a_tile_for_each_and_boxes_on_them(tmp_path):
    gray = np.full((144, 192, 3), 128, np.uint8)
    boxes = [[40, 40, 100, 100], [120, 20, 160, 60], [10, 10, 13, 13]]
    samples = [stored_sample(tmp_path / "a.png", gray, boxes, ignore=[0, 1, 0])] * 6
    sheet = contact_sheet(samples, Options(), 6)
    assert sheet.shape == (2 * TILE[1], 5 * TILE[0], 3)
    # The picture is twice as large on the tile.
    (blue, green, red), ignored, painted = sheet[140, 80], sheet[80, 240], sheet[23, 20]
    assert green > 180
    assert max(blue, red) < 120
    assert min(ignored[1:]) > 180
    assert painted[0] > 180
    assert (sheet[TILE[1] :, TILE[0] :] == 0).all()


# --- The command ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    """`edgeface prepare`: by itself, whatever group it is in."""
    monkeypatch.setattr(cli, "COMMANDS", (train_prepare.add_parser,))

    def run(*arguments):
        status = cli.main(["prepare", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_command_prints_the_counts_and_writes_all_files(run, folder, tmp_path):
    output = tmp_path / "out.tar"
    other = write_folder(tmp_path / "more", [line("c.png", [[1, 1, 40, 40]])])
    status, out, err = run(folder, other, "--output", output, "--preview", 2)
    assert (status, err) == (0, "")
    rows = {words[0]: words[1:] for words in map(str.split, out.splitlines())}
    assert rows["data"] == ["more", "total"]
    assert rows["images"] == ["2", "1", "3"]
    assert rows["small"] == ["1", "0", "1"]
    assert len(trainable(open_archive(output))) == 3
    assert json.loads((tmp_path / "out.report.json").read_text())["total"]["faces"] == 5
    sheet = cv2.imread(str(tmp_path / "out.preview.png"))
    assert sheet.shape == (TILE[1], 2 * TILE[0], 3)


def test_command_passes_its_options_on(run, folder, tmp_path):
    options = ("--min-face", 12, "--size", "64x48", "--max-side", 32, "--quality", 50)
    status, _, _ = run(folder, "-o", tmp_path / "out", *options)
    assert status == 0
    written = json.loads((tmp_path / "out" / "report.json").read_text())["options"]
    assert written == {
        "min_face": 12,
        "size": [64, 48],
        "max_side": 32,
        "quality": 50,
        "on_error": "fail",
    }
    sizes = {s.size for s in trainable(open_archive(tmp_path / "out"))}
    assert sizes == {(32, 24)}


def test_command_names_what_is_broken(run, damaged, tmp_path):
    status, out, err = run(damaged, "--output", tmp_path / "out")
    assert (status, out) == (2, "")
    assert "images/bad.png: damaged" in err
    status, out, err = run(damaged, "--output", tmp_path / "out", "--on-error", "skip")
    assert status == 1
    assert err.count("skipped: ") == 2
    assert "skipped" in out
    status, _, err = run(damaged, "--output", tmp_path / "out", "--on-error", "skip")
    assert status == 2
    assert f"{tmp_path}/out: exists; --force replaces it" in err


def test_preview_shows_only_what_was_written(run, damaged, tmp_path):
    output = tmp_path / "out"
    status, out, _ = run(damaged, "-o", output, "--on-error", "skip", "--preview", 3)
    assert status == 1
    assert f"drew 2 images in {output / 'preview.png'}" in out


def test_nothing_written_has_no_preview(run, tmp_path):
    empty = write_folder(tmp_path / "empty", [])
    status, out, err = run(empty, "-o", tmp_path / "out", "--preview", 3)
    assert (status, err) == (0, "")
    assert "no preview: no image was written" in out
    with pytest.raises(ValueError, match="no image to draw"):
        contact_sheet([], Options(), 3)


# --- The archives beside the checkout -----------------------------------------------------------------------------


@needs_shared
def test_archive_of_masks_has_the_faces_that_are_known_of_it(tmp_path):
    dataset = open_dataset(FACES / "train-mask.tar")
    found = [fates(sample, Options()) for sample in dataset]
    # 853 and 4,334: the archive's own description; 352: longer sides under 10, counted apart.
    assert len(found) == 853
    every = np.concatenate(found).tolist()
    assert (len(every), every.count("small"), every.count("kept")) == (4334, 352, 4334 - 352)
    some = dataclasses.replace(dataset, records=dataset.records[::20])
    report = prepare([some], tmp_path / "out.tar", Options())
    assert report.total["images"] == len(trainable(open_archive(tmp_path / "out.tar"))) == 43


@needs_shared
def test_archive_for_evaluation_is_refused(tmp_path):
    with pytest.raises(DataError, match="held out for evaluation"):
        prepare([open_dataset(FACES / "eval-wider-val.tar")], tmp_path / "out", Options())
