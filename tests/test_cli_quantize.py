from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import tarfile

import numpy as np
import pytest

from edgeface import FaceDetector, media, model
from edgeface.formats import onnx, tmfile
from edgeface.spec import read, to_json
from reference import detector_graph, detector_spec, picture

pytest.importorskip("cv2", reason="opencv is not installed")

GRAPH = detector_graph()
# Nothing is suppressed: which of two random boxes that overlap is left would be chance.
SPEC = detector_spec(GRAPH, score_threshold=0.5, iou_threshold=1.0, ap={"easy": 0.8})


@pytest.fixture
def run(run_edgeface):
    """Runs edgeface quantize; (status, stdout, stderr)."""
    return functools.partial(run_edgeface, "quantize")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in" / "random.onnx"
    path.parent.mkdir()
    path.write_bytes(onnx.write(GRAPH, {model.METADATA_KEY: to_json(SPEC)}))
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    for seed in range(4):
        media.write_image(path / f"{seed}.png", picture(seed=seed))
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.tmfile"


def test_a_tmfile_in_int8_gets_its_spec_beside_it_without_the_ap_of_float32(
    run, source, folder, target
):
    status, out, err = run(source, target, "--images", folder)
    assert (status, err) == (0, "")
    assert out.startswith("4 of 4 pictures\n")
    assert (
        f"wrote {target}: {target.stat().st_size:,} bytes\nspec {target.with_suffix('.json')}"
        in out
    )
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    heads = dataclasses.replace(SPEC.heads, activation="softmax")
    expected = dataclasses.replace(SPEC, heads=heads, ap={}, sha256=digest)
    assert read(target.with_suffix(".json")) == expected
    opened = model.load(target)
    assert opened.graph.is_quantized
    with FaceDetector(source) as one, FaceDetector(target) as other:
        faces = one.detect(picture(seed=9)), other.detect(picture(seed=9))
    assert abs(len(faces[0]) - len(faces[1])) <= 0.2 * len(faces[0])


def test_every_layer_is_a_line_of_the_table(run, source, folder, target):
    _, out, _ = run(source, target, "--images", folder, "--keep-softmax")
    head, *rows = out.splitlines()[1:]
    assert head.split() == ["value", "operator", "scale", "zero", "point", "clipped", "SQNR", "dB"]
    for node in GRAPH.nodes:
        found = [row.split() for row in rows if row.split()[:2] == [node.output, node.kind]]
        assert len(found) == (node.kind not in ("Transpose", "Reshape"))


def test_an_onnx_file_has_its_spec_inside(run, source, folder, tmp_path):
    target = tmp_path / "out.onnx"
    status, out, _ = run(source, target, "--images", folder, "--zero-points", "--keep-softmax")
    assert status == 0
    assert f"spec inside {target}" in out
    opened = model.load(target)
    assert opened.spec == dataclasses.replace(SPEC, ap={})
    zeros = {
        int(t.quantization.zero_point[0]) for t in opened.graph.tensors.values() if t.quantization
    }
    assert zeros == {0, -127}


def test_pictures_may_lie_in_an_archive(run, source, folder, target, tmp_path):
    archive = tmp_path / "pictures.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname="images")
        tar.add(source, arcname="annotations.jsonl")
    assert run(source, target, "--images", archive)[0] == 0
    data = target.read_bytes()
    other = tmp_path / "other.tmfile"
    assert run(source, other, "--images", *sorted(folder.iterdir()))[0] == 0
    assert other.read_bytes() == data


def test_samples_are_equally_far_apart(run, source, folder, target, tmp_path):
    assert run(source, target, "--images", folder, "--samples", 2)[1].startswith(
        "2 of 4 pictures\n"
    )
    ends = [folder / "0.png", folder / "3.png"]
    other = tmp_path / "other.tmfile"
    assert run(source, other, "--images", *ends)[0] == 0
    assert other.read_bytes() == target.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "minmax"),
        ("--keep-softmax",),
        ("--method", "percentile", "--percentile", "99.9"),
        ("--no-equalize",),
        ("--no-bias-correction",),
        ("--scale-steps", "0"),
        ("--extra", "1"),
    ],
    ids=" ".join,
)
def test_every_option_changes_the_file(options, run, source, folder, target, tmp_path):
    assert run(source, target, "--images", folder)[0] == 0
    other = tmp_path / "other.tmfile"
    assert run(source, other, "--images", folder, *options)[0] == 0
    assert other.read_bytes() != target.read_bytes()


def test_another_input_size_is_calibrated_at_that_size(run, source, folder, target):
    assert run(source, target, "--images", folder, "--input-size", "192x128")[0] == 0
    assert model.load(target).graph.input_size == (192, 128)


BAD = ("--method", "percentile", "--percentile", "30")


def test_what_disagrees_is_not_written_and_its_noisiest_layers_are_named(
    run, source, folder, target, tmp_path
):
    report = tmp_path / "report.json"
    status, out, _ = run(source, target, "--images", folder, *BAD, "--json", report)
    assert status == 1
    assert "disagrees: " in out
    noisiest = out.split("noisiest: ")[1].splitlines()[0]
    layers = json.loads(report.read_text(encoding="utf-8"))["layers"]
    worst = sorted(layers, key=lambda layer: layer["sqnr_db"])[:3]
    text = ", ".join("{kind} '{name}' ({sqnr_db:.1f} dB)".format(**layer) for layer in worst)
    assert noisiest == text
    assert out.splitlines()[-1] == f"{target} is not written; --force writes it all the same"
    assert not target.exists()
    assert not target.with_suffix(".json").exists()


def test_what_disagrees_is_written_when_forced(run, source, folder, target):
    status, out, _ = run(source, target, "--images", folder, *BAD, "--force")
    assert status == 1
    assert "disagrees: " in out
    assert tmfile.read(target.read_bytes()).is_quantized


def test_the_report_holds_what_is_printed(run, source, folder, target, tmp_path):
    path = tmp_path / "reports" / "report.json"
    _, out, _ = run(source, target, "--images", folder, *BAD, "--json", path)
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["options"]["method"] == {"name": "percentile", "percentile": 30.0}
    assert [f"disagrees: {problem}" in out for problem in report["problems"]] == [True] * len(
        report["problems"]
    )
    assert report["problems"]
    assert report["faces"]["pictures"] == 4
    for layer in report["layers"]:
        assert f"{layer['sqnr_db']:.1f}" in out
        assert f"{layer['clipped']:.4%}" in out


def test_a_plot_has_a_bar_for_every_layer(run, source, folder, target, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "noise.png"
    status, out, _ = run(source, target, "--images", folder, "--plot", path)
    assert status == 0
    assert f"wrote {path}" in out
    drawn = media.read_image(path)
    # Dark blue rows of bars, one below another, with white between them.
    is_bar = (np.abs(drawn.astype(int) - (178, 114, 0)).max(axis=2) < 8).sum(axis=1) > 5
    convolutions = sum(node.kind == "Conv" for node in GRAPH.nodes)
    legend = 1
    assert 0 < np.count_nonzero(np.diff(is_bar.astype(int)) == 1) <= convolutions + legend
    assert np.count_nonzero(np.diff(is_bar.astype(int)) == 1) >= convolutions - 1


def test_a_picture_that_cannot_be_read_is_named_once_and_the_others_are_used(
    run, source, folder, target
):
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    status, out, err = run(source, target, "--images", folder)
    assert status == 1
    assert err.count(str(broken)) == 1
    assert f"wrote {target}" in out


def fails(run, *arguments):
    status, _, err = run(*arguments)
    assert status == 2
    return err


def test_a_folder_without_pictures_is_an_error(run, source, target, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    err = fails(run, source, target, "--images", empty)
    assert f"{empty}: no images" in err
    assert "there is no picture to calibrate with" in err
    assert not target.exists()


def test_a_target_that_exists_is_refused_before_any_work(run, source, folder, target):
    target.write_bytes(b"mine")
    err = fails(run, source, target, "--images", folder)
    assert f"{target}: exists; --force replaces it" in err
    assert target.read_bytes() == b"mine"
    assert run(source, target, "--images", folder, "--force")[0] == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.pth", (), "expected a name that ends in .tmfile or .onnx"),
        ("out.tmfile", ("--zero-points",), "Tengine has no zero points in int8; write an .onnx"),
        ("out.tmfile", ("--plot", "noise.jpg"), "expected a name that ends in .png"),
        ("out.tmfile", ("--percentile", "0"), "percentile is 0.0; expected above 0"),
        ("out.tmfile", ("--scale-steps", "-1"), "scale_steps is -1; expected 0 or more"),
        ("out.tmfile", ("--extra", "-1"), "extra is -1.0; expected 0 to 1"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    name, options, message, run, source, folder, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    assert message in fails(run, source, out / name, "--images", folder, *options)
    assert list(out.iterdir()) == []


def test_a_report_may_not_take_the_specs_name(run, source, folder, target):
    report = target.with_suffix(".json")
    assert "the spec goes there" in fails(run, source, target, "--images", folder, "--json", report)
    assert not report.exists()


def test_a_quantised_model_is_refused(run, source, folder, target, tmp_path):
    assert run(source, target, "--images", folder)[0] == 0
    err = fails(run, target, tmp_path / "again.tmfile", "--images", folder)
    assert f"{target} is quantised already; expected a float32 model" in err


def test_a_damaged_archive_is_an_error_with_its_name(run, source, target, tmp_path):
    archive = tmp_path / "pictures.tar"
    archive.write_bytes(b"x" * 2000)
    assert f"{archive}: no .tar, or a damaged one" in fails(
        run, source, target, "--images", archive
    )
