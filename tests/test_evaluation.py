from __future__ import annotations

import dataclasses
import gzip
import json
import re
import tarfile

import numpy as np
import pytest

import evaluation_reference as reference
from edgeface import Faces, evaluation
from edgeface.errors import DataError
from edgeface.evaluation import Candidate, Found, Scene, Truth, gallery, precision
from edgeface.formats import onnx
from edgeface.model import METADATA_KEY
from edgeface.spec import to_json
from reference import SHARED, detector_graph, detector_spec, needs_shared

cv2 = pytest.importorskip("cv2", reason="opencv is not installed")

EVAL_DATA = SHARED / "data" / "faces" / "eval-wider-val.tar"
NO_MARKS = np.full((5, 2), np.nan)
# Both add some thousand terms below 1 in float64, in different orders.
ROUNDING = 1e-11


class InMemory:
    """Images of a truth."""

    def __init__(self, images=None):
        self.images = images

    def has(self, name):
        return self.images is None or name in self.images

    def read(self, name):
        return self.images[name]

    def close(self):
        pass


def scene(faces, *, counts=None, name="a.png", landmarks=None, **subsets):
    """One image; every face counts in "all" unless `counts` or whole subsets say otherwise."""
    faces = np.array(faces, np.float64).reshape(-1, 4)
    kept = subsets or {"all": [True] * len(faces) if counts is None else counts}
    marks = np.array([NO_MARKS] * len(faces) if landmarks is None else landmarks, np.float64)
    masks = {subset: np.array(mask, bool) for subset, mask in kept.items()}
    return Scene(name, faces, masks, marks.reshape(-1, 5, 2))


def candidate(*, size=(100, 100), resize="stretch", threshold=0.5):
    return Candidate("model", lambda frame: frame, size, resize, "none", threshold)


def test_scale_of_an_input_that_follows_frames_is_that_of_each_frame(tmp_path):
    path = tmp_path / "little.onnx"
    graph = detector_graph()
    path.write_bytes(onnx.write(graph, {METADATA_KEY: to_json(detector_spec(graph))}))
    options = {"backend": "native", "input_size": "frame", "max_side": 100}
    model = evaluation.open_model(path, **options)
    assert model.input_size is None
    # Inputs of 112x64, 112x80 and 80x112: a longer side of 100, and both rounded up to strides of 16.
    assert model.scale((100, 50)) == 112 / 100
    assert model.scale((400, 300)) == 80 / 300
    assert model.scale((300, 400)) == 80 / 300
    stretched = evaluation.open_model(path, resize="stretch", **options)
    assert stretched.scale((300, 400)) == 112 / 400


def assess(scenes, rows, convention=evaluation.EXACT, *, sizes=None, **options):
    """`rows`: a list of x1, y1, x2, y2, score (and landmarks) for every scene, best first."""
    images = [np.array(r, np.float32).reshape(len(r), -1 if r else 5) for r in rows]
    found = Found(tuple(images), tuple(sizes or [(100, 100)] * len(scenes)))
    truth = Truth("made", scenes, InMemory())
    return evaluation.assess(truth, candidate(**options), found, convention)


def all_faces(*arguments, **options):
    return assess(*arguments, **options).figures.subsets["all"]


FACE, OTHER, NOTHING = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]


# --- By hand -----------------------------------------------------------------------------------------------


def test_ap_is_the_area_below_the_best_precision_from_each_recall_on():
    rows = [[*FACE, 0.9], [*NOTHING, 0.8], [*OTHER, 0.7]]
    # Half the faces at precision 1, the other half at 2 of 3.
    assert all_faces([scene([FACE, OTHER])], [rows]).ap == pytest.approx((1 + 2 / 3) / 2)


def test_ap_of_a_face_never_found_is_lost():
    assert all_faces([scene([FACE, OTHER])], [[[*FACE, 0.9]]]).ap == 0.5
    assert all_faces([scene([FACE, OTHER])], [[]]).ap == 0


def test_ap_is_none_when_no_face_counts():
    figures = all_faces([scene([FACE], counts=[False])], [[[*FACE, 0.9]]])
    assert (figures.faces, figures.ap, figures.best) == (0, None, None)


def test_a_second_box_on_a_face_is_false():
    rows = [[*FACE, 0.9], [*FACE, 0.8], [*OTHER, 0.7]]
    assert all_faces([scene([FACE, OTHER])], [rows]).ap == pytest.approx((1 + 2 / 3) / 2)


def test_boxes_on_a_face_that_does_not_count_are_neither_hit_nor_false():
    rows = [[*OTHER, 0.9], [*OTHER, 0.8], [*FACE, 0.7]]
    figures = all_faces([scene([FACE, OTHER], counts=[True, False])], [rows])
    assert (figures.faces, figures.ap) == (1, 1)


def test_a_box_belongs_to_the_face_it_overlaps_most_even_if_that_is_taken():
    near = [0, 0, 10, 9]  # IoU 0.9 with FACE
    rows = [[*near, 0.9], [*near, 0.8]]
    # Both overlap FACE by 0.9, too, which would be a second hit: it stays unfound.
    assert all_faces([scene([FACE, near])], [rows]).ap == 0.5


def test_boxes_of_one_score_enter_together_in_whatever_order():
    one = all_faces([scene([FACE])], [[[*FACE, 0.9], [*NOTHING, 0.9]]])
    other = all_faces([scene([FACE])], [[[*NOTHING, 0.9], [*FACE, 0.9]]])
    assert one.ap == other.ap == 0.5


def test_the_images_share_one_curve():
    # By image it would be 1 and 1; the second one's false box comes before the first one's hit.
    scenes = [scene([FACE]), scene([FACE])]
    rows = [[[*FACE, 0.6]], [[*FACE, 0.9], [*NOTHING, 0.8]]]
    assert all_faces(scenes, rows).ap == pytest.approx((1 + 2 / 3) / 2)


def test_half_of_the_union_is_enough_and_less_is_not():
    assert all_faces([scene([FACE])], [[[0, 0, 10, 5, 0.9]]]).ap == 1
    assert all_faces([scene([FACE])], [[[0, 0, 10, 4.99, 0.9]]]).ap == 0


def test_the_toolbox_counts_the_last_pixel_in():
    # 9 x 4 of 9 x 9 is less than half; 10 x 5 of 10 x 10 is half.
    scenes, rows = [scene([[0, 0, 9, 9]])], [[[0, 0, 9, 4, 0.9]]]
    assert all_faces(scenes, rows).ap == 0
    assert all_faces(scenes, rows, evaluation.TOOLBOX).ap == 1


def test_the_toolbox_leaves_out_images_without_faces():
    scenes, rows = [scene([]), scene([FACE])], [[[*NOTHING, 0.9]], [[*FACE, 0.5]]]
    assert all_faces(scenes, rows).ap == 0.5
    assert all_faces(scenes, rows, evaluation.TOOLBOX).ap == 1


@pytest.mark.parametrize(
    ("hit", "false", "parted"),
    [(0.5003, 0.5001, False), (0.5001, 0.4999, True), (0.9991, 0.9989, True)],
)
def test_the_toolbox_parts_scores_only_at_its_thousand_steps(hit, false, parted):
    # Scores here go from 0 to 1, so its steps are 0.999, 0.998, ... 0.
    rows = [[*OTHER, 1], [*FACE, hit], [*NOTHING, false], [*NOTHING, 0]]
    scenes = [scene([FACE, OTHER])]
    assert all_faces(scenes, [rows]).ap == 1
    ap = all_faces(scenes, [rows], evaluation.TOOLBOX).ap
    assert ap == pytest.approx(1 if parted else (1 + 2 / 3) / 2)


def test_the_points_are_at_the_models_threshold_and_where_f1_is_largest():
    rows = [[*FACE, 0.9], [*OTHER, 0.6], [*NOTHING, 0.5], [*NOTHING, 0.4]]
    figures = all_faces([scene([FACE, OTHER])], [rows], threshold=0.5)
    assert figures.at_threshold == precision.Point(0.5, 2 / 3, 1, pytest.approx(0.8))
    assert figures.best == precision.Point(pytest.approx(0.6), 1, 1, 1)


def test_a_score_equal_to_the_threshold_is_found_as_in_the_detector():
    # 0.7 is no float32: the detection's 0.7 is below the real number.
    assert float(np.float32(0.7)) < 0.7
    assert all_faces([scene([FACE])], [[[*FACE, 0.7]]], threshold=0.7).at_threshold.recall == 1


def test_at_a_threshold_that_nothing_reaches_precision_and_recall_are_0():
    figures = all_faces([scene([FACE])], [[[*FACE, 0.3]]], threshold=0.5)
    assert figures.at_threshold == precision.Point(0.5, 0, 0, 0)


# --- Heights -----------------------------------------------------------------------------------------------


def by_height(assessment, unit):
    return {h.text: (h.faces, h.ap) for h in assessment.figures.heights[unit]}


def test_heights_go_from_each_limit_up_to_the_next():
    faces = [[0, 0, 20, height] for height in (15.9, 16, 31.9, 127.9, 128)]
    assessment = assess([scene(faces)], [[]])
    counts = {text: count for text, (count, _) in by_height(assessment, "frame").items()}
    assert counts == {"<16": 1, "16-32": 2, "32-64": 0, "64-128": 1, ">=128": 1}


def test_other_heights_are_neither_hit_nor_miss():
    small, large = [0, 0, 10, 10], [40, 0, 240, 200]
    rows = [[*small, 0.9], [*large, 0.8], [300, 0, 320, 20, 0.7], [300, 300, 310, 310, 0.6]]
    aps = by_height(assess([scene([small, large])], [rows]), "frame")
    assert aps == {
        "<16": (1, 1),
        "16-32": (0, None),
        "32-64": (0, None),
        "64-128": (0, None),
        ">=128": (1, 1),
    }


def test_a_false_box_costs_only_the_faces_of_its_own_height():
    small, large = [0, 0, 10, 10], [40, 0, 240, 200]
    rows = [[300, 0, 310, 10, 0.95], [*small, 0.9], [*large, 0.8]]
    aps = by_height(assess([scene([small, large])], [rows]), "frame")
    assert (aps["<16"], aps[">=128"]) == ((1, 0.5), (1, 1))


@pytest.mark.parametrize(
    ("resize", "input_height"),
    [("stretch", 40 * 240 / 400), ("letterbox", 40 * 320 / 1600)],
)
def test_input_heights_are_scaled_as_the_frame_is(resize, input_height):
    face = [0, 0, 40, 40]
    options = {"size": (320, 240), "resize": resize, "sizes": [(1600, 400)]}
    assessment = assess([scene([face])], [[]], **options)
    assert by_height(assessment, "frame")["32-64"][0] == 1
    (text,) = [t for t, (count, _) in by_height(assessment, "input").items() if count]
    assert text == {24.0: "16-32", 8.0: "<16"}[input_height]


# --- Landmarks ---------------------------------------------------------------------------------------------

POINTS = np.array([[2, 3], [7, 3], [5, 5], [3, 8], [7, 8]], np.float64)


def with_points(box, score, points):
    return [*box, score, *np.ravel(points)]


def test_landmarks_error_is_the_mean_distance_over_the_root_of_the_area():
    box = [0, 0, 10, 40]
    rows = [with_points(box, 0.9, POINTS + np.array([3, 4]))]
    figures = assess([scene([box], landmarks=[POINTS])], [rows]).figures.landmarks
    assert (figures.annotated, figures.faces) == (1, 1)
    assert figures.mean == pytest.approx(5 / 20)
    assert figures.percentiles == {
        "50": pytest.approx(0.25),
        **dict.fromkeys(("90", "95"), pytest.approx(0.25)),
    }


def test_landmarks_are_those_of_the_best_box_on_the_face_at_the_models_threshold():
    truths = [scene([FACE, OTHER], landmarks=[POINTS, POINTS + 20])]
    rows = [
        with_points(FACE, 0.9, POINTS + np.array([1, 0])),
        with_points(FACE, 0.8, POINTS + np.array([5, 0])),
        with_points(OTHER, 0.4, POINTS + 25),
    ]
    figures = assess(truths, [rows], threshold=0.5).figures.landmarks
    assert (figures.annotated, figures.faces, figures.mean) == (2, 1, pytest.approx(0.1))


def test_faces_without_landmarks_or_that_do_not_count_have_no_error():
    truths = [
        scene(
            [FACE, OTHER, NOTHING], counts=[True, True, False], landmarks=[POINTS, NO_MARKS, POINTS]
        )
    ]
    rows = [with_points(box, 0.9, POINTS) for box in (FACE, OTHER, NOTHING)]
    figures = assess(truths, [rows]).figures.landmarks
    assert (figures.annotated, figures.faces, figures.mean) == (1, 1, 0)


def test_landmarks_figures_are_none_when_model_or_truth_has_none():
    marked = [scene([FACE], landmarks=[POINTS])]
    assert assess(marked, [[[*FACE, 0.9]]]).figures.landmarks is None
    assert assess([scene([FACE])], [[with_points(FACE, 0.9, POINTS)]]).figures.landmarks is None


def test_landmarks_without_any_face_found_have_no_mean():
    marked = [scene([FACE], landmarks=[POINTS])]
    figures = assess(marked, [[with_points(NOTHING, 0.9, POINTS)]]).figures.landmarks
    assert (figures.annotated, figures.faces, figures.mean, figures.percentiles) == (1, 0, None, {})


# --- Beside the slow evaluator -----------------------------------------------------------------------------

SUBSETS = ("easy", "medium", "hard")


def random_truth(random, *, whole):
    """Scenes and rows; in whole pixels, everything ties."""
    scenes, rows = [], []
    for i in range(random.integers(1, 6)):
        faces = random_boxes(random, random.integers(i == 0, 7), whole)
        # The first scene keeps its first face: the AP of a subset without faces is undefined.
        kept = {
            s: (random.random(len(faces)) < 0.6) | (np.arange(len(faces)) + i == 0) for s in SUBSETS
        }
        scenes.append(scene(faces, **kept))
        boxes = random_boxes(random, random.integers(0, 13), whole)
        if not whole and len(faces):
            near = faces[random.integers(len(faces), size=len(boxes))]
            boxes = near + random.normal(0, 0.6, near.shape)
        scores = random.integers(0, 21, len(boxes)) / 20 if whole else random.random(len(boxes))
        found = np.column_stack([boxes, -np.sort(-scores)]).astype(np.float32)
        rows.append(found.tolist())
    return scenes, rows


def random_boxes(random, count, whole):
    corner, size = random.uniform(0, 6, (count, 2)), random.uniform(1, 6, (count, 2))
    boxes = np.hstack([corner, corner + size])
    return np.round(boxes) if whole else boxes


# As written down in benchmarks/README.md, not as the package has them.
SLOW = {"exact": {}, "toolbox": {"border": 1, "thresholds": 1000, "faceless": False}}


def slow(scenes, rows, subset, convention):
    images = [(s.faces.tolist(), s.kept[subset].tolist(), r) for s, r in zip(scenes, rows)]
    return reference.average_precision(images, **SLOW[convention])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("convention", "cases"), [("exact", 150), ("toolbox", 15)])
def test_ap_is_that_of_the_slow_evaluator(convention, cases, whole):
    random = np.random.default_rng(1)
    used = evaluation.CONVENTIONS[convention]
    between = 0
    for _ in range(cases):
        scenes, rows = random_truth(random, whole=whole)
        figures = assess(scenes, rows, used).figures
        for subset in SUBSETS:
            got, want = figures.subsets[subset].ap, slow(scenes, rows, subset, convention)
            assert got == pytest.approx(want, rel=0, abs=ROUNDING)
            between += 0 < want < 1
    assert between > cases  # of 3 * cases: most say something


@pytest.mark.parametrize("whole", [True, False])
def test_points_are_those_counted_one_by_one(whole):
    random = np.random.default_rng(2)
    for _ in range(50):
        scenes, rows = random_truth(random, whole=whole)
        threshold = float(random.random())
        figures = assess(scenes, rows, threshold=threshold).figures.subsets["hard"]
        points = {
            score: counted_point(scenes, rows, score)
            for score in {threshold, *(row[4] for image in rows for row in image)}
        }
        point = figures.at_threshold
        assert (point.precision, point.recall) == pytest.approx(points.pop(threshold))
        best = max(map(f1, points.values()), default=0)
        assert best == pytest.approx(0 if figures.best is None else figures.best.f1)
        if figures.best is not None:
            assert f1(points[figures.best.score]) == pytest.approx(best)


def counted_point(scenes, rows, score):
    hits = false = 0
    for s, found in zip(scenes, rows):
        owners = [reference.owner(row, s.faces.tolist(), 0) for row in found if row[4] >= score]
        image_hits, image_false = reference.hits_and_false(owners, s.kept["hard"].tolist())
        hits, false = hits + image_hits, false + image_false
    return hits / max(hits + false, 1), hits / sum(s.kept["hard"].sum() for s in scenes)


def f1(point):
    return 2 * point[0] * point[1] / sum(point) if sum(point) else 0


# --- Archives ----------------------------------------------------------------------------------------------


def encoded(width=32, height=24, suffix=".png", seed=0):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, picture)[1].tobytes()


def row(image="images/a.png", **changes):
    values = {
        "image": image,
        "width": 32,
        "height": 24,
        "boxes": [[1, 2, 10, 12], [4, 4, 0, 3], [20, 3, 5, 6]],
        "ignore": [0, 0, 1],
        "landmarks": [POINTS.ravel().tolist(), None, None],
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


def write_folder(path, rows, files=None):
    """annotations.jsonl and images; `rows` may be text."""
    path.mkdir(parents=True, exist_ok=True)
    lines = rows if isinstance(rows, str) else "".join(json.dumps(r) + "\n" for r in rows)
    (path / "annotations.jsonl").write_text(lines, encoding="utf-8")
    for name, data in (files or {"images/a.png": encoded()}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_tar(folder, prefix=""):
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.add(file, prefix + file.relative_to(folder).as_posix())
    return path


@pytest.fixture(params=["folder", "tar", "tar of .", "tar.gz"])
def packed(request):
    """Puts a folder in the form."""

    def packed(folder):
        if request.param == "folder":
            return folder
        path = as_tar(folder, "./" if request.param == "tar of ." else "")
        if request.param == "tar.gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
        return path

    return packed


def test_an_archive_has_its_faces_landmarks_and_pixels(tmp_path, packed):
    with evaluation.open_truth(packed(write_folder(tmp_path / "data", [row()]))) as opened:
        (only,) = opened.scenes
        assert opened.subsets == ("all",)
        assert only.faces.tolist() == [[1, 2, 11, 14], [4, 4, 4, 7], [20, 3, 25, 9]]
        # The second has no area, the third is to be ignored.
        assert only.kept["all"].tolist() == [True, False, False]
        assert only.landmarks[0].tolist() == POINTS.tolist()
        assert np.isnan(only.landmarks[1:]).all()
        frame = opened.frame(only)
        want = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
        assert frame.tolist() == want.tolist()


def test_wider_keep_makes_the_subsets(tmp_path):
    keep = {"easy": [], "medium": [0], "hard": [0, 2]}
    with evaluation.open_truth(write_folder(tmp_path / "d", [row(wider_keep=keep)])) as opened:
        kept = opened.scenes[0].kept
        assert {name: np.flatnonzero(mask).tolist() for name, mask in kept.items()} == keep
        assert (opened.widest, [opened.count(s) for s in opened.subsets]) == ("hard", [0, 1, 2])


def test_an_image_without_faces_or_optional_keys_is_read(tmp_path):
    bare = row(boxes=[], ignore=None, landmarks=None)
    with evaluation.open_truth(write_folder(tmp_path / "d", [bare])) as opened:
        assert opened.scenes[0].faces.shape == (0, 4)
        assert opened.scenes[0].landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{}\n", "line 1: no 'boxes'"),
        ("[]\n", "line 1: "),
        (json.dumps(row()) + "\n{\n", "line 2: "),
        ("[" * 100_000 + "\n", "line 1: "),
        ("", "no images in it"),
        ([row(image=None)], "line 1: no 'image'"),
        ([row(image=3)], "line 1: "),
        ([row(image="/etc/passwd")], "leads out of the folder"),
        ([row(image="../a.png")], "leads out of the folder"),
        ([row(image="images/b.png")], "lacks 1 of its images, first images/b.png"),
        ([row(width="wide")], "line 1: "),
        ([row(boxes=[[1, 2, 3]], ignore=None, landmarks=None)], "boxes of 3 numbers"),
        ([row(boxes=[[1, 2], [3, 4]], ignore=None, landmarks=None)], "boxes of 2 numbers"),
        ([row(boxes=[[1, 2, 3, 4], [1, 2, 3]])], "line 1: "),
        ([row(boxes=[[1, 2, -3, 4]], ignore=None, landmarks=None)], "negative size"),
        ([row(boxes=[[1, 2, float("nan"), 4]], ignore=None, landmarks=None)], "not finite"),
        ([row(boxes=4)], "line 1: "),
        ([row(ignore=[0])], "ignore has 1 values; expected 3"),
        ([row(ignore=["x", 0, 0])], "line 1: "),
        ([row(landmarks=[None])], "landmarks has 1 values; expected 3"),
        ([row(landmarks=[[1, 2], None, None])], "a face's landmarks has 2 values; expected 10"),
        ([row(landmarks=[["a"] * 10, None, None])], "line 1: "),
        ([row(wider_keep={"easy": [3], "medium": [], "hard": []})], "wider_keep has 3"),
        ([row(wider_keep={"easy": [-1], "medium": [], "hard": []})], "wider_keep has -1"),
        ([row(wider_keep={"easy": [0]})], "line 1: no 'medium'"),
        ([row(wider_keep=[])], "line 1: "),
        ([row(), row(wider_keep={name: [] for name in SUBSETS})], "only some lines"),
    ],
)
def test_wrong_annotations_name_the_file_and_line(tmp_path, rows, message):
    path = write_folder(tmp_path / "data", rows)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        evaluation.open_truth(path)
    assert str(error.value).startswith(str(path.name)) or str(path) in str(error.value)


def test_a_damaged_archive_is_refused_wherever_it_is_cut(tmp_path):
    archive = as_tar(write_folder(tmp_path / "data", [row()]))
    with tarfile.open(archive) as opened:
        last = opened.getmembers()[-1]
    whole, path, refused = archive.read_bytes(), tmp_path / "cut.tar", []
    for length in range(0, last.offset_data + last.size, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError) as error, evaluation.open_truth(path) as found:
            found.frame(found.scenes[0])
        refused.append("cut.tar" in str(error.value))
    assert all(refused)


def test_what_is_no_archive_is_named(tmp_path):
    path = tmp_path / "data.tar"
    path.write_bytes(b"not a tar")
    with pytest.raises(DataError, match=r"data\.tar: no \.tar"):
        evaluation.open_truth(path)
    with pytest.raises(FileNotFoundError):
        evaluation.open_truth(tmp_path / "missing.tar")
    with pytest.raises(DataError, match=r"neither annotations\.jsonl nor wider_face_val\.mat"):
        evaluation.open_truth(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (encoded()[:100], "damaged"),
        (encoded(width=16), "is 16x24; its annotations are for (32, 24)"),
    ],
)
def test_a_bad_image_is_named(tmp_path, packed, data, message):
    path = packed(write_folder(tmp_path / "data", [row()], {"images/a.png": data}))
    with evaluation.open_truth(path) as opened, pytest.raises(DataError) as error:
        opened.frame(opened.scenes[0])
    assert message in str(error.value)
    assert "images/a.png" in str(error.value)


def test_images_are_taken_as_stored_whatever_their_exif_orientation(tmp_path):
    jpeg = encoded(suffix=".jpg")
    # One entry: orientation (0x112), short, "turn by 90 degrees".
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (32, 24)
    path = write_folder(tmp_path / "d", [row(image="a.jpg")], {"a.jpg": turned})
    with evaluation.open_truth(path) as opened:
        assert opened.frame(opened.scenes[0]).shape == (24, 32, 3)


# --- WIDER FACE as published -------------------------------------------------------------------------------

EVENTS = {
    "0--Parade": {
        "0_Parade_1": [[1, 2, 10, 12], [20, 3, 5, 6]],
        "0_Parade_2": [[3, 3, 8, 8]],
    },
    "1--Handshaking": {"1_Handshaking_1": []},
}
KEPT = {"easy": [[1], [], []], "medium": [[1], [1], []], "hard": [[1, 2], [1], []]}
NESTED = ("eval_tools/ground_truth", "WIDER_val/images")


def cells(values):
    """A column of cells, as MATLAB has them."""
    column = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        column[i, 0] = value
    return column


def write_wider(root, kept=None, mats=".", images="images", faces=None):
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed")
    events = faces or EVENTS
    folder = root / mats
    folder.mkdir(parents=True, exist_ok=True)
    boxes = [
        cells([np.array(b, np.float64).reshape(-1, 4) for b in e.values()]) for e in events.values()
    ]
    scipy_io.savemat(
        folder / "wider_face_val.mat",
        {
            "event_list": cells(list(events)),
            "file_list": cells([cells(list(files)) for files in events.values()]),
            "face_bbx_list": cells(boxes),
        },
    )
    for name, indices in (kept or KEPT).items():
        rest = iter(indices)
        lists = [cells([np.array(next(rest)).reshape(-1, 1) for _ in e]) for e in events.values()]
        scipy_io.savemat(folder / f"wider_{name}_val.mat", {"gt_list": cells(lists)})
    for event, files in events.items():
        for name in files:
            path = root / images / event / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(suffix=".jpg"))
    return root


@pytest.mark.parametrize(("mats", "images"), [(".", "images"), NESTED, ("ground_truth", ".")])
def test_the_published_folder_has_its_faces_and_subsets(tmp_path, mats, images):
    with evaluation.open_truth(write_wider(tmp_path, mats=mats, images=images)) as opened:
        assert [s.image for s in opened.scenes] == [
            "0--Parade/0_Parade_1.jpg",
            "0--Parade/0_Parade_2.jpg",
            "1--Handshaking/1_Handshaking_1.jpg",
        ]
        assert opened.scenes[0].faces.tolist() == [[1, 2, 11, 14], [20, 3, 25, 9]]
        assert opened.scenes[0].kept["easy"].tolist() == [True, False]
        assert [opened.count(subset) for subset in opened.subsets] == [1, 2, 3]
        assert opened.frame(opened.scenes[2]).shape == (24, 32, 3)


def test_the_published_folder_and_the_archive_give_the_same_figures(tmp_path):
    with evaluation.open_truth(write_wider(tmp_path / "wider")) as opened:
        scenes = opened.scenes
    rows = []
    for s, *kept in zip(scenes, *KEPT.values()):
        boxes = np.hstack([s.faces[:, :2], s.faces[:, 2:] - s.faces[:, :2]]).tolist()
        keep = {name: [i - 1 for i in indices] for name, indices in zip(SUBSETS, kept)}
        rows.append(row(s.image, boxes=boxes, wider_keep=keep, ignore=None, landmarks=None))
    files = {s.image: encoded(suffix=".jpg") for s in scenes}
    with evaluation.open_truth(write_folder(tmp_path / "archive", rows, files)) as opened:
        found = [[[*FACE, 0.9]], [[3, 3, 11, 11, 0.8]], [[*NOTHING, 0.7]]]
        one, other = (assess(s, found).figures for s in (scenes, opened.scenes))
    assert one == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept": {**KEPT, "hard": [[1, 3], [1], []]}}, "wider_hard_val.mat keeps faces that"),
        ({"kept": {**KEPT, "easy": [[0], [1], []]}}, "wider_easy_val.mat keeps faces that"),
    ],
)
def test_published_files_that_do_not_fit_are_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=re.escape(message)):
        evaluation.open_truth(write_wider(tmp_path, **changes))


def test_a_missing_published_file_is_named(tmp_path):
    write_wider(tmp_path)
    (tmp_path / "wider_medium_val.mat").unlink()
    with pytest.raises(DataError, match=r"nor wider_medium_val\.mat"):
        evaluation.open_truth(tmp_path)


def test_a_missing_published_image_is_named(tmp_path):
    write_wider(tmp_path)
    (tmp_path / "images/0--Parade/0_Parade_2.jpg").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of its images, first 0--Parade/0_Parade_2\.jpg"):
        evaluation.open_truth(tmp_path)


@pytest.mark.parametrize("name", ["wider_face_val.mat", "wider_hard_val.mat"])
def test_a_damaged_mat_is_named_wherever_it_is_cut(tmp_path, name):
    whole = (write_wider(tmp_path) / name).read_bytes()
    for length in range(0, len(whole) - 8, 97):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(DataError, match=re.escape(name)):
            evaluation.open_truth(tmp_path)


def test_another_mat_is_named(tmp_path):
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed")
    write_wider(tmp_path)
    scipy_io.savemat(tmp_path / "wider_face_val.mat", {"x": 1})
    with pytest.raises(DataError, match=r"wider_face_val\.mat: not such a \.mat"):
        evaluation.open_truth(tmp_path)


# --- Detections --------------------------------------------------------------------------------------------


def test_every_candidate_sees_every_image_and_each_is_read_once(tmp_path):
    files = {f"images/{name}.png": encoded(seed=i) for i, name in enumerate("ab")}
    path = write_folder(tmp_path / "data", [row(name) for name in files], files)
    seen = {"one": [], "other": []}

    def looking(name):
        def detect(frame):
            seen[name].append(frame)
            return Faces(np.zeros((0, 5), np.float32))

        return dataclasses.replace(candidate(), detect=detect)

    with evaluation.open_truth(path) as opened:
        found = evaluation.find_all(opened, [looking(name) for name in seen])
    assert [one.sizes for one in found] == [((32, 24), (32, 24))] * 2
    assert [len(one.rows) for one in found] == [2, 2]
    assert [a is b for a, b in zip(*seen.values())] == [True, True]
    assert not np.array_equal(*seen["one"])


# --- Mistakes ----------------------------------------------------------------------------------------------


def mistakes():
    """Two faces missed, one of them with a weak box; two false boxes; a face and a box that do not count."""
    scenes = [scene([FACE, [40, 0, 70, 30]]), scene([FACE, OTHER], counts=[True, False])]
    rows = [
        [[*FACE, 0.9], [41, 1, 69, 29, 0.3], [80, 80, 90, 90, 0.2]],
        [[*NOTHING, 0.95], [0, 4, 10, 14, 0.8], [*OTHER, 0.7]],
    ]
    return Truth("made", scenes, InMemory()), assess(scenes, rows, threshold=0.5)


def test_misses_are_the_faces_without_a_box_of_the_models_threshold_largest_first():
    cases = gallery.misses(*mistakes())
    assert [(c.scene, c.box.tolist()) for c in cases] == [(0, [40, 0, 70, 30]), (1, FACE)]
    assert [c.text for c in cases] == ["30 px of input, score 0.30", "10 px of input, no box"]


def test_false_detections_are_those_that_count_and_hit_nothing_best_first():
    cases = gallery.false_detections(*mistakes())
    assert [(c.scene, c.box.tolist()) for c in cases] == [(1, NOTHING), (1, [0, 4, 10, 14])]
    assert [c.text for c in cases] == ["score 0.95, no face", "score 0.80, IoU 0.43"]


def test_the_gallery_marks_the_box_that_is_meant(tmp_path):
    faces = [[10, 10, 20, 22]]
    image = {"a.png": cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()}
    opened = Truth("made", [scene(faces)], InMemory(image))
    gallery.write(opened, assess([scene(faces)], [[[40, 40, 50, 52, 0.9]]]), tmp_path / "m.png")
    picture = cv2.imread(str(tmp_path / "m.png"))
    assert picture.shape[1] == gallery.COLUMNS * gallery.TILE
    # Two titles, a missed face; another title, a false detection.
    first = picture[2 * gallery.TITLE :][: gallery.TILE, : gallery.TILE]
    start = 3 * gallery.TITLE + gallery.TILE + gallery.STRIP
    second = picture[start:][: gallery.TILE, : gallery.TILE]
    for tile, color in ((first, gallery.FACE), (second, gallery.DETECTION)):
        scale = gallery.TILE / gallery.LEAST_SIDE
        rows, columns = np.nonzero((tile == color).all(axis=2))
        # 10 x 12 pixels in the middle of the tile, and a line of 3.
        assert columns.max() - columns.min() == pytest.approx(10 * scale, abs=4)
        assert rows.max() - rows.min() == pytest.approx(12 * scale, abs=4)


# --- Released models ---------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_shared
@pytest.mark.skipif(not EVAL_DATA.is_file(), reason=f"{EVAL_DATA} is not here")
def test_released_models_keep_their_figures_and_the_slow_evaluator_agrees():
    wanted = {
        "version-RFB-320.onnx": (0.838, 0.743, 0.550),
        "version-slim-320.onnx": (0.829, 0.724, 0.510),
        "version-RFB-640.onnx": (0.884, 0.841, 0.657),
    }
    weights = SHARED / "weights" / "ultraface"
    with evaluation.open_truth(EVAL_DATA) as opened:
        models = [evaluation.open_model(weights / n, n, backend="native") for n in wanted]
        results = evaluation.find_all(opened, models)
        for model, found in zip(models, results):
            figures = evaluation.assess(opened, model, found).figures
            aps = [subset.ap for subset in figures.subsets.values()]
            assert aps == pytest.approx(wanted[model.name], abs=5e-4)
        # The best 30 boxes an image: the slow evaluator is very slow.
        best = Found(tuple(rows[:30] for rows in results[0].rows), results[0].sizes)
        figures = evaluation.assess(opened, models[0], best, evaluation.TOOLBOX).figures
        lists = [rows.tolist() for rows in best.rows]
        for subset in SUBSETS:
            want = slow(opened.scenes, lists, subset, "toolbox")
            assert figures.subsets[subset].ap == pytest.approx(want, rel=0, abs=ROUNDING)
