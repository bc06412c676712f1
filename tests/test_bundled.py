"""Models that come with edgeface: found by name. Those here are made up; test_bundled_models.py has the real ones."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from edgeface import FaceDetector, ModelError, bundled, cli, convert, media, model
from reference import detector_graph, detector_spec, picture


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the default model and another."""
    made = tmp_path / "models"
    made.mkdir()
    graph = detector_graph()
    spec = detector_spec(
        graph, score_threshold=0.5, ap={"easy": 0.875, "medium": 0.5, "hard": 0.25}
    )
    for name in (bundled.DEFAULT, "another"):
        convert.save(
            graph, dataclasses.replace(spec, name=name), made / f"{name}.tmfile", force=False
        )
    (made / "another.md").write_text("# another\n")
    monkeypatch.setattr(bundled, "_FOLDERS", (tmp_path / "not there", made))
    return made


@pytest.fixture
def without_models(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "_FOLDERS", (tmp_path / "none", tmp_path / "nor here"))


def test_a_detector_opens_the_default_without_arguments(folder):
    with FaceDetector() as detector, FaceDetector(folder / f"{bundled.DEFAULT}.tmfile") as other:
        assert detector.spec.name == bundled.DEFAULT
        np.testing.assert_array_equal(
            detector.detect(picture(1)).rows, other.detect(picture(1)).rows
        )


def test_a_detector_opens_a_model_by_its_name_and_a_copy_of_it_does_too(folder):
    for name in ("another", Path("another")):
        with FaceDetector(name) as detector:
            assert detector.spec.name == "another"
            assert "another" in repr(detector)
            with pickle.loads(pickle.dumps(detector)) as copy:
                assert copy.spec == detector.spec
    assert folder.is_dir()


def test_a_file_is_a_file_whatever_is_bundled(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "another.tmfile").rename(tmp_path / "another.tmfile")
    (folder / "another.json").rename(tmp_path / "another.json")
    with FaceDetector("another.tmfile") as detector:
        assert detector.spec.name == "another"
    for path in ("another.tmfile", "./another", "models/another", "a.b", "/another", ""):
        assert bundled.resolved(path) == Path(path)
    with pytest.raises(ModelError, match="no model 'another' comes with edgeface: there are"):
        FaceDetector("another")


def test_an_unknown_name_says_which_there_are(folder):
    assert bundled.names() == sorted(path.stem for path in folder.glob("*.tmfile"))
    with pytest.raises(ModelError, match=rf"there are another, {bundled.DEFAULT}; .*rfb\.tmfile"):
        FaceDetector("rfb")


@pytest.mark.usefixtures("without_models")
def test_without_any_model_it_says_so():
    assert bundled.names() == []
    with pytest.raises(ModelError, match="there is none in this copy of edgeface"):
        FaceDetector()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [["info"], ["verify", "another"]])
def test_commands_take_names(command, capsys):
    assert cli.main([*command, "another"]) == 0
    assert capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_detect_and_demo_take_the_default(tmp_path, capsys):
    pytest.importorskip("cv2", reason="opencv is not installed")
    source = tmp_path / "one.png"
    media.write_image(source, picture(1))
    assert cli.main(["detect", str(source)]) == 0
    one = capsys.readouterr().out
    assert cli.main(["demo", str(source), "-o", str(tmp_path / "faces.png")]) == 0
    other = capsys.readouterr().out
    assert one.splitlines()[0] == other.splitlines()[0]
    assert bundled.DEFAULT in other


def test_models_lists_them_first_and_marks_the_default(folder, capsys):
    assert cli.main(["models"]) == 0
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    names = ["name", "input", "landmarks", "bytes", "easy", "medium", "hard"]
    assert table[0].split()[:7] == names
    protocol = "202 images, stretched to the input size"
    assert table[1].endswith(f"  {protocol}")
    size = (folder / "another.tmfile").stat().st_size
    assert table[1].split()[:7] == ["another", "96x64", "-", f"{size:,}", "0.875", "0.500", "0.250"]
    assert table[2].split()[:2] == [bundled.DEFAULT, "*"]
    assert cli.main(["models", "--json"]) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["name"] for one in values if one.get("bundled")] == ["another", bundled.DEFAULT]
    assert [one["default"] for one in values[:2]] == [False, True]
    assert Path(values[0]["card"]).read_text() == "# another\n"
    assert values[1]["card"] is None
    assert f"{values[0]['ap_images']} images, {values[0]['protocol']}" == protocol
    assert values[0]["spec"]["ap"] == model.load("another").spec.ap
