"""The models in models/: each is what its spec and card say, and finds faces. test_quantized.py knows int8's bytes."""

from __future__ import annotations

import hashlib

import pytest

from edgeface import FaceDetector, bundled, model
from reference import SHARED, needs_shared, photograph

NAMES = bundled.names()
if not NAMES:
    pytest.skip(f"no model is bundled yet ({bundled.folder()})", allow_module_level=True)
each = pytest.mark.parametrize("name", NAMES)


def test_the_default_is_bundled_and_in_int8():
    assert bundled.DEFAULT in NAMES
    assert model.load(bundled.DEFAULT).graph.is_quantized


def most_bytes(opened):
    """The default model's limit, and what heads for landmarks add to it in weights."""
    landmarks = opened.spec.heads.landmarks is not None
    if opened.graph.is_quantized:
        return 425_000 if landmarks else 331_000 if opened.spec.name != bundled.DEFAULT else 330_000
    return 1_500_000 if landmarks else 1_300_000


@each
def test_a_model_is_what_its_spec_and_card_say(name):
    path = bundled.path_of(name)
    opened = model.load(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (opened.spec.name, opened.spec.sha256, opened.spec.licence) == (name, digest, "MIT")
    assert opened.spec.training_data
    assert {"easy", "medium", "hard"} <= opened.spec.ap.keys()
    assert opened.graph.is_quantized == name.endswith("-int8")
    assert path.stat().st_size <= most_bytes(opened)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    for text in (f"# {name}", digest, "terms do not allow passing images on"):
        assert text in card
    assert "teacher" in card or "from the weights of" in card
    for ap in opened.spec.ap.values():
        assert f"{ap:.4f}" in card
    assert f": {bundled.AP_IMAGES} images" in card
    assert (opened.spec.input.resize, bundled.AP_RESIZE) == (
        "stretch",
        "stretched to the input size",
    )
    easy = f"{opened.spec.ap['easy']:.4f}"
    precision = "int8" if opened.graph.is_quantized else "float32"
    assert f"| {precision} | stretch | exact | {easy} |" in card


@needs_shared
@each
def test_a_model_finds_the_faces_of_photographs(name):
    with FaceDetector(name, score_threshold=0.5) as detector:
        paths = sorted((SHARED / "images").glob("*.jpg"))
        counts = {path.name: len(detector.detect(photograph(path.name))) for path in paths}
    # A crowd: released RFB-320 in int8 finds 104 from 0.6 on, a run of ours after half of its steps 36.
    assert counts["17.jpg"] >= 30
    assert all(count > 0 for count in counts.values())
