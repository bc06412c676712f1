"""One photograph from its pixels to boxes: any machine, ISA and model file finds what x86-64 found."""

from __future__ import annotations

import pytest
from numpy.testing import assert_allclose

from edgeface import FaceDetector
from reference import ISAS, SHARED, needs_shared, photograph

# The scalar kernels on x86-64: how many faces, and the best one's box.
FOUND = {
    "rfb320": (75, (1121.275, 595.239, 1220.405, 730.473)),
    "slim320": (88, (881.338, 677.401, 993.568, 822.551)),
}


@needs_shared
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", FOUND)
def test_the_faces_of_a_photograph_are_those_of_every_machine(name, isa, monkeypatch):
    monkeypatch.setenv("EDGEFACE_ISA", isa)
    detector = FaceDetector(SHARED / "weights" / "tmfile" / f"{name}.tmfile", backend="native")
    frame = photograph("17.jpg")
    faces = detector.detect(frame)
    count, box = FOUND[name]
    assert len(faces) == count
    # As in test_detector.py, test_released_models_find_what_their_own_graph_finds.
    assert_allclose(faces.boxes[0], box, rtol=0, atol=0.05 * frame.shape[1] / 640)
