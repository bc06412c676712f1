from __future__ import annotations

import hashlib

import pytest

from edgeface import networks, zoo
from edgeface.formats import onnx, torch_weights
from reference import SHARED, Builder, detector_graph, needs_shared
from test_networks import make_weights
from test_retinaface import make_weights as make_retinaface

WEIGHTS = SHARED / "weights"
RELEASED = sorted(
    path
    for folder in ("ultraface", "ultraface-landmark", "retinaface", "yunet")
    for path in (WEIGHTS / folder).glob("*")
    if path.suffix in (".pth", ".onnx")
)


@pytest.fixture(scope="module")
def slim():
    return networks.build(make_weights("slim"))


@pytest.fixture(scope="module")
def slim_landmark():
    return networks.build(make_weights("slim-landmark"))


# --- The table of released files ---------------------------------------------------------------------


def test_every_file_is_in_the_table_once():
    digests = [published.sha256 for published in zoo.MODELS]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests)


@pytest.mark.parametrize("published", zoo.MODELS, ids=lambda p: f"{p.name}-{p.file}")
def test_every_file_has_its_facts(published):
    assert published.source.startswith("https://github.com/")
    assert published.licence in ("MIT", "BSD-3-Clause")
    assert "WIDER FACE" in published.training_data
    assert list(published.ap) == ["easy", "medium", "hard"]
    assert 1 > published.ap["easy"] > published.ap["medium"] > published.ap["hard"] > 0
    assert published.protocol
    assert published.family in zoo.FAMILIES


def test_a_file_is_known_by_its_digest():
    for published in zoo.MODELS:
        assert zoo.known(published.sha256) is published
    assert zoo.known("0" * 64) is None


@needs_shared
@pytest.mark.parametrize("path", RELEASED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_released_file_is_known(path):
    published = zoo.known(hashlib.sha256(path.read_bytes()).hexdigest())
    assert published is not None
    assert published.file == path.name


@needs_shared
def test_every_entry_is_of_a_released_file():
    assert len(RELEASED) == len(zoo.MODELS)


@needs_shared
@pytest.mark.parametrize("path", RELEASED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_released_network_has_the_size_in_the_table(path):
    """And is recognised as of the family that the table says, without its digest."""
    data = path.read_bytes()
    published = zoo.known(hashlib.sha256(data).hexdigest())
    if path.suffix == ".onnx":
        graph = onnx.load(data, published.size).graph
    else:
        graph = networks.build(torch_weights.read(data), published.size)
    assert graph.input_size == published.size
    # RetinaFace for half the size has the same outputs, so that only its digest tells it.
    family = "retinaface" if published.family == "retinaface-320" else published.family
    assert zoo.recognised(graph) == zoo.family_spec(family, graph)


def test_the_spec_of_a_released_file_has_its_name_licence_and_figures(slim):
    published = next(p for p in zoo.MODELS if p.file == "version-slim-320.pth")
    spec = zoo.published_spec(published, slim)
    assert spec.name == "version-slim-320"
    assert (spec.licence, spec.training_data) == ("MIT", "WIDER FACE")
    assert spec.ap == {"easy": 0.770, "medium": 0.671, "hard": 0.395}
    family = zoo.family_spec("ultraface", slim)
    assert (spec.input, spec.priors, spec.heads) == (family.input, family.priors, family.heads)


def test_a_family_that_is_not_known_has_no_spec(slim):
    with pytest.raises(ValueError, match="unknown family 'blaze'; known: ultraface, "):
        zoo.family_spec("blaze", slim)


# --- Families ----------------------------------------------------------------------------------------


def test_a_family_says_nothing_about_a_files_licence(slim):
    """Whoever trained it may say so in a sidecar."""
    spec = zoo.recognised(slim)
    assert (spec.licence, spec.training_data, spec.ap, spec.sha256) == (None, None, {}, None)


def test_the_families_are_told_apart_by_their_outputs(slim, slim_landmark):
    assert zoo.recognised(slim) == zoo.ultraface(slim)
    assert zoo.recognised(slim_landmark) == zoo.ultraface_landmark(slim_landmark)


def test_the_variants_with_landmarks_were_trained_otherwise(slim_landmark):
    spec = zoo.recognised(slim_landmark.resized(640, 480))
    assert (spec.input.width, spec.input.height) == (640, 480)
    assert (spec.input.channels, spec.input.resize) == ("bgr", "letterbox")
    assert spec.input.mean == (104, 117, 123)
    assert spec.input.scale == (1, 1, 1)
    assert (spec.priors.grid, spec.priors.clip) == ("stride", False)
    assert spec.heads.landmarks == "landmarks"
    assert (spec.score_threshold, spec.iou_threshold) == (0.6, 0.4)


def test_retinaface_was_trained_as_published():
    graph = networks.build(make_retinaface("mobilenet0.25"), (640, 640))
    spec = zoo.recognised(graph)
    assert spec == zoo.retinaface(graph)
    assert (spec.input.channels, spec.input.resize) == ("bgr", "letterbox")
    assert (spec.input.mean, spec.input.scale) == ((104, 117, 123), (1, 1, 1))
    assert (spec.priors.grid, spec.priors.clip) == ("stride", False)
    assert spec.priors.strides == (8, 16, 32)
    assert spec.priors.min_sizes == ((16, 32), (64, 128), (256, 512))
    assert spec.priors.variances == (0.1, 0.2)
    assert spec.priors.count(640, 640) == 16800
    smaller = zoo.retinaface_320(graph)
    assert smaller.priors.min_sizes == ((10, 20), (32, 64), (128, 256))
    assert smaller.input == spec.input


@pytest.mark.parametrize("landmarks", [False, True])
def test_a_network_with_other_rows_is_not_recognised(landmarks):
    assert zoo.recognised(detector_graph(landmarks=landmarks)) is None


def heads(channels=3, **columns):
    """Outputs of these names and widths; at 8 x 8 pixels, the published networks have ten rows."""
    b = Builder(channels, 8, 8)
    x = b.conv(b.conv(b.conv("input", 4, 3, stride=2), 4, 3, stride=2), 4, 3, stride=2)
    return b.graph(*(b.rows(b.conv(x, 10 * n), n, name=name) for name, n in columns.items()))


def test_names_and_shapes_must_be_exact():
    assert zoo.recognised(heads(scores=2, boxes=4)).name == "ultraface"
    with_landmarks = heads(scores=2, boxes=4, landmarks=10)
    assert zoo.recognised(with_landmarks).name == "ultraface-landmark"
    assert zoo.recognised(heads(scores=2, boxes=4)).heads.activation == "softmax"
    for other in (
        {"scores": 2},
        {"scores": 2, "box": 4},
        {"scores": 1, "boxes": 4},
        {"scores": 2, "boxes": 5},
        {"scores": 2, "boxes": 4, "points": 10},
        {"scores": 2, "boxes": 4, "landmarks": 8},
        {"scores": 2, "boxes": 4, "landmarks": 10, "more": 1},
        {"scores": 2, "boxes": 4, "channels": 1},
    ):
        assert zoo.recognised(heads(**other)) is None


def test_a_family_that_is_not_known_is_refused(slim):
    with pytest.raises(ValueError, match="unknown family 'blazeface'"):
        zoo.family_spec("blazeface", slim)


def test_a_network_without_the_heads_of_a_family_still_gets_its_spec_to_edit():
    spec = zoo.family_spec("ultraface-landmark", heads(confidence=2))
    assert spec.heads.landmarks == "landmarks"
