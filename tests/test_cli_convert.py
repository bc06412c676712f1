from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os

import numpy as np
import pytest

from edgeface import FaceDetector, ModelError, convert, model
from edgeface.backends import BACKENDS
from edgeface.formats import onnx, tmfile
from edgeface.graph import Conv
from edgeface.spec import read, to_json
from reference import SHARED, needs_shared
from test_cli import SPEC, network, picture, save

ULTRAFACE = SHARED / "weights" / "ultraface"
JSON = to_json(SPEC)


@pytest.fixture(autouse=True)
def native_first(monkeypatch):
    monkeypatch.delenv("EDGEFACE_BACKEND", raising=False)


@pytest.fixture
def run(run_edgeface):
    """Runs edgeface convert; (status, stdout, stderr)."""
    return functools.partial(run_edgeface, "convert")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in" / "random.onnx"
    path.parent.mkdir()
    path.write_bytes(onnx.write(network(), {model.METADATA_KEY: JSON}))
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(path):
    return sorted(p.name for p in path.iterdir())


# What is written


def test_a_tmfile_gets_its_spec_beside_it(run, source, tmp_path):
    target = tmp_path / "out.tmfile"
    status, out, err = run(source, target)
    assert (status, err) == (0, "")
    assert f"wrote {target}: {target.stat().st_size:,} bytes" in out
    assert f"same as {source}" in out
    assert read(target.with_suffix(".json")) == dataclasses.replace(SPEC, sha256=digest(target))
    assert files(tmp_path) == ["in", "out.json", "out.tmfile"]
    with FaceDetector(source) as one, FaceDetector(target) as other:
        np.testing.assert_array_equal(one.detect(picture()).rows, other.detect(picture()).rows)


def test_an_onnx_file_has_its_spec_inside(run, source, tmp_path):
    first, target = tmp_path / "first.tmfile", tmp_path / "out.onnx"
    assert run(source, first)[0] == 0
    status, out, err = run(first, target)
    assert (status, err) == (0, "")
    assert f"spec inside {target}" in out
    opened = model.load(target)
    assert (opened.spec, opened.spec_source) == (SPEC, "the file's metadata")
    assert files(tmp_path) == ["first.json", "first.tmfile", "in", "out.onnx"]


def test_there_and_back_gives_the_same_file(run, source, tmp_path):
    names = ("a.tmfile", "b.onnx", "c.tmfile", "d.onnx")
    paths = [source, *(tmp_path / name for name in names)]
    for one, other in zip(paths, paths[1:]):
        assert run(one, other)[0] == 0
    for one, other in (("a.tmfile", "c.tmfile"), ("a.json", "c.json"), ("b.onnx", "d.onnx")):
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()


def test_another_input_size_leaves_the_published_accuracy_out(run, source, tmp_path):
    measured = dataclasses.replace(SPEC, ap={"easy": 0.5})
    source.write_bytes(onnx.write(network(), {model.METADATA_KEY: to_json(measured)}))
    assert run(source, tmp_path / "same.tmfile")[0] == 0
    status, *_ = run(source, tmp_path / "large.tmfile", "--input-size", "128x96")
    opened = model.load(tmp_path / "large.tmfile")
    assert status == 0
    assert (opened.graph.input_size, opened.spec.ap) == ((128, 96), {})
    assert model.load(tmp_path / "same.tmfile").spec.ap == {"easy": 0.5}


@pytest.mark.parametrize("options", [("--min-face", 24), ("--levels", "16")])
@pytest.mark.parametrize("suffix", [".tmfile", ".onnx"])
def test_levels_are_left_out_of_the_file_and_of_its_spec(run, source, tmp_path, options, suffix):
    measured = dataclasses.replace(SPEC, ap={"easy": 0.5})
    source.write_bytes(onnx.write(network(), {model.METADATA_KEY: to_json(measured)}))
    target = tmp_path / f"out{suffix}"
    status, out, err = run(source, target, *options)
    assert (status, err) == (0, "")
    assert "without the levels of stride 8\n" in out
    assert f"same as {source}" in out
    opened = model.load(target)
    assert (opened.spec.priors.strides, opened.spec.priors.min_sizes) == ((16,), ((24.0,),))
    assert opened.spec.ap == {}
    assert opened.graph.tensors["boxes"].shape == (1, 12, 4)
    with FaceDetector(source, levels=(16,)) as one, FaceDetector(target) as other:
        assert len(one.detect(picture())) > 0
        np.testing.assert_array_equal(one.detect(picture()).rows, other.detect(picture()).rows)


def test_levels_that_a_face_may_need_stay(run, source, tmp_path):
    status, out, _ = run(source, tmp_path / "out.tmfile", "--min-face", 23.9)
    assert status == 0
    assert "without" not in out
    assert model.load(tmp_path / "out.tmfile").spec.priors == SPEC.priors


def test_levels_of_a_model_without_a_spec_are_unknown(run, tmp_path):
    source, target = tmp_path / "in.onnx", tmp_path / "out.tmfile"
    source.write_bytes(onnx.write(network(scores="confidence")))
    status, _, err = run(source, target, "--levels", "16")
    assert status != 0
    assert "only a spec says which levels there are" in err
    assert not target.exists()


def test_a_model_without_a_spec_is_converted_with_a_warning(run, tmp_path):
    source, target = tmp_path / "in.onnx", tmp_path / "out.tmfile"
    source.write_bytes(onnx.write(network(scores="confidence")))
    status, out, err = run(source, target)
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("edgeface: warning: no spec goes with it: ")
    assert f"same as {source}" in out
    assert files(tmp_path) == ["in.onnx", "out.tmfile"]


def test_a_spec_may_be_given(run, tmp_path):
    source, spec = tmp_path / "in.onnx", tmp_path / "mine.json"
    source.write_bytes(onnx.write(network(scores="confidence")))
    heads = dataclasses.replace(SPEC.heads, scores="confidence")
    spec.write_text(to_json(dataclasses.replace(SPEC, heads=heads)), encoding="utf-8")
    assert run(source, tmp_path / "out.tmfile", "--spec", spec)[0] == 0
    assert model.load(tmp_path / "out.tmfile").spec.heads.scores == "confidence"


# What is refused


@pytest.mark.parametrize("beside", [True, False])
def test_a_spec_that_does_not_fit_is_an_error_and_not_a_model_without_one(run, source, beside):
    text = JSON.replace('"scores": "scores"', '"scores": "none"')
    if beside:
        source.with_suffix(".json").write_text(text, encoding="utf-8")
    else:
        source.write_bytes(onnx.write(network(), {model.METADATA_KEY: text}))
    target = source.parent / "out.tmfile"
    status, _, err = run(source, target)
    assert (status, err.count("\n")) == (2, 1)
    assert "the spec names 'none'" in err
    assert not target.exists()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("out.pth", "expected a name that ends in .tmfile or .onnx"),
        ("none/out.tmfile", "none: no such directory"),
        ("random.onnx", "a name of its own"),
        ("directory.tmfile", "directory.tmfile: is a directory"),
    ],
)
def test_a_bad_target_is_refused(run, source, target, says):
    (source.parent / "directory.tmfile").mkdir()
    before = source.read_bytes()
    status, _, err = run(source, source.parent / target, "--force")
    assert (status, err.count("\n")) == (2, 1)
    assert says in err
    assert source.read_bytes() == before


@pytest.mark.parametrize("name", ["out.tmfile", "out.json"])
def test_nothing_is_replaced_without_force(run, source, tmp_path, name):
    there = tmp_path / name
    there.write_text("mine", encoding="utf-8")
    status, _, err = run(source, tmp_path / "out.tmfile")
    assert (status, err.count("\n")) == (2, 1)
    assert str(there) in err
    assert "--force" in err
    assert there.read_text(encoding="utf-8") == "mine"
    assert files(tmp_path) == ["in", name]
    assert run(source, tmp_path / "out.tmfile", "--force")[0] == 0
    assert model.load(tmp_path / "out.tmfile").spec.sha256 == digest(tmp_path / "out.tmfile")


def test_a_foreign_spec_does_not_become_that_of_a_model_without_one(run, tmp_path):
    source = tmp_path / "in.onnx"
    source.write_bytes(onnx.write(network(scores="confidence")))
    (tmp_path / "out.json").write_text(JSON, encoding="utf-8")
    status, _, err = run(source, tmp_path / "out.tmfile", "--force")
    assert status == 2
    assert "out.json" in err
    assert not (tmp_path / "out.tmfile").exists()


def test_models_of_one_name_share_a_spec_that_is_for_both(run, source):
    source.write_bytes(onnx.write(network()))
    sidecar = source.with_suffix(".json")
    for target in (source.with_suffix(".tmfile"), source.with_suffix(".onnx")):
        sidecar.write_text(JSON, encoding="utf-8")
        origin = source if target != source else source.with_suffix(".tmfile")
        status, *_ = run(origin, target, "--force")
        assert status == 0
        assert read(sidecar) == SPEC
    # For one file alone, it would keep the other from being opened.
    alone = dataclasses.replace(SPEC, sha256=digest(source))
    sidecar.write_text(to_json(alone), encoding="utf-8")
    source.with_suffix(".tmfile").unlink()
    status, _, err = run(source, source.with_suffix(".tmfile"))
    assert status == 2
    assert "--force makes it one for both" in err
    assert run(source, source.with_suffix(".tmfile"), "--force")[0] == 0
    assert model.load(source).spec == model.load(source.with_suffix(".tmfile")).spec == SPEC


def test_a_disk_that_is_full_leaves_what_was_there(monkeypatch, run, source, tmp_path):
    target = tmp_path / "out.tmfile"
    target.write_text("before", encoding="utf-8")

    def full(_):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(os, "fsync", full)
    status, _, err = run(source, target, "--force")
    assert status == 2
    assert "No space left" in err
    assert target.read_text(encoding="utf-8") == "before"
    assert files(tmp_path) == ["in", "out.tmfile"]


def test_a_format_that_cannot_hold_the_network_says_so(monkeypatch, run, source, tmp_path):
    def refuse(_):
        raise ModelError("no room")

    monkeypatch.setattr(tmfile, "write", refuse)
    target = tmp_path / "out.tmfile"
    assert run(source, target)[2] == f"edgeface: error: {target} cannot be written: no room\n"


# The check of what was written


def written_with(monkeypatch, change):
    """Has the tmfile's writer write another network."""
    write = tmfile.write
    monkeypatch.setattr(convert.tmfile, "write", lambda graph: write(change(graph)))


def heavier(graph, name):
    tensor = graph.tensors[name]
    changed = dataclasses.replace(tensor, data=tensor.data * np.float32(1.01))
    return dataclasses.replace(graph, tensors={**graph.tensors, name: changed})


def activated(graph, name):
    nodes = tuple(
        dataclasses.replace(node, op=dataclasses.replace(node.op, activation="relu"))
        if node.name == name and isinstance(node.op, Conv)
        else node
        for node in graph.nodes
    )
    return dataclasses.replace(graph, nodes=nodes)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda graph: heavier(graph, "level16.weight"), "level16"),
        (lambda graph: heavier(heavier(graph, "b8.weight"), "s16.weight"), "s16"),
        (lambda graph: activated(graph, "level8"), "level8"),
    ],
)
def test_the_first_tensor_that_differs_is_named(monkeypatch, run, source, tmp_path, change, first):
    written_with(monkeypatch, change)
    target = tmp_path / "out.tmfile"
    status, out, _ = run(source, target)
    assert status == 1
    assert f"first diverging tensor: {first}: differs by up to " in out
    assert "expected at most 0.0001" in out
    assert f"{target} is not the same as {source}" in out
    assert target.exists()


def test_verifying_may_be_left_out(monkeypatch, run, source, tmp_path):
    written_with(monkeypatch, lambda graph: heavier(graph, "level16.weight"))
    status, out, _ = run(source, tmp_path / "out.tmfile", "--no-verify")
    assert status == 0
    assert "same as" not in out


def test_pictures_are_compared_too(run, source, tmp_path):
    image = save(tmp_path / "a.png")
    status, out, _ = run(source, tmp_path / "out.tmfile", "--images", image)
    assert status == 0
    assert f"{image} on native: scores: equal, boxes: equal" in out
    status, _, err = run(source, tmp_path / "more.tmfile", "--images", tmp_path / "none.png")
    assert status == 2
    assert "none.png" in err
    assert not (tmp_path / "more.tmfile").exists()


@pytest.mark.onnx
def test_another_backend_checks_where_native_cannot(monkeypatch, run, source, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    for name in ("native", "tengine"):
        monkeypatch.setattr(BACKENDS[name], "unavailable", lambda: "it is not here")
    status, out, _ = run(source, tmp_path / "out.tmfile")
    assert status == 0
    assert "noise on onnxruntime: " in out


# The released files


@needs_shared
def test_released_weights_there_and_back(run, tmp_path):
    weights = ULTRAFACE / "version-RFB-320.pth"
    paths = [weights, *(tmp_path / name for name in ("a.tmfile", "b.onnx", "c.tmfile"))]
    for one, other in zip(paths, paths[1:]):
        status, out, _ = run(one, other)
        assert status == 0
        assert "scores: equal, boxes: equal" in out
    assert (tmp_path / "a.tmfile").read_bytes() == (tmp_path / "c.tmfile").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["licence"] == "MIT"


@needs_shared
@pytest.mark.parametrize("name", ["rfb320-int8", "rfb320-uint8"])
def test_released_quantised_networks_there_and_back(run, tmp_path, name):
    source = SHARED / "weights" / "tmfile" / f"{name}.tmfile"
    assert run(source, tmp_path / "a.onnx")[0] == 0
    status, out, _ = run(tmp_path / "a.onnx", tmp_path / "b.tmfile")
    assert status == 0
    assert "scores: equal, boxes: equal" in out
    assert "none differs" in out


@needs_shared
def test_heads_that_come_by_level_are_written_joined(run, tmp_path):
    source, out = SHARED / "weights" / "yunet" / "yunet_n_dynamic.onnx", tmp_path / "out.onnx"
    status, said, _ = run(source, out)
    assert (status, "none differs" in said) == (0, True)
    assert model.load(out).graph.outputs == tuple(model.load(source).spec.heads.roles.values())
