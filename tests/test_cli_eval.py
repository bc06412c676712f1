from __future__ import annotations

import builtins
import functools
import json

import numpy as np
import pytest

from edgeface import evaluation
from edgeface.evaluation import plots
from edgeface.faces import LANDMARKS
from edgeface.formats import onnx
from edgeface.model import METADATA_KEY
from edgeface.spec import to_json
from reference import SHARED, detector_graph, detector_spec, needs_shared
from test_cli import SPEC, network, picture, save

cv2 = pytest.importorskip("cv2", reason="opencv is not installed")

SUBSETS = ("easy", "medium", "hard")


@pytest.fixture
def run(run_edgeface):
    """Runs edgeface eval; (status, stdout, stderr)."""
    return functools.partial(run_edgeface, "eval")


@pytest.fixture
def little(tmp_path):
    """Writes a network of random weights, with its spec inside."""

    def little(name="little.onnx", graph=None, spec=SPEC):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(onnx.write(graph or network(), {METADATA_KEY: to_json(spec)}))
        return path

    return little


@pytest.fixture
def data(tmp_path, little):
    """Three images whose faces are what the little network finds, some of them moved away."""
    folder, rows = tmp_path / "data", []
    detect = evaluation.open_model(little(), backend="native").detect
    for seed in range(3):
        save(folder / f"{seed}.png", picture(seed))
        boxes = detect(picture(seed)).boxes[:4].astype(float) + (30 if seed == 2 else 0)
        boxes[:, 2:] -= boxes[:, :2]
        kept = {"easy": [0], "medium": [0, 1], "hard": [0, 1, 2]}
        rows.append({"image": f"{seed}.png", "width": 96, "height": 72, "boxes": boxes.tolist()})
        rows[-1]["wider_keep"] = kept
    write_rows(folder, rows)
    return folder


def write_rows(folder, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "annotations.jsonl").write_text(text, encoding="utf-8")


def without_keep(folder):
    lines = (folder / "annotations.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "wider_keep"} for line in lines]


def test_the_table_and_the_json_have_the_same_figures(run, little, data, tmp_path):
    out = tmp_path / "new" / "figures.json"
    status, text, errors = run(little(), "--data", data, "--json", out)
    assert (status, errors) == (0, "")
    values = json.loads(out.read_text(encoding="utf-8"))
    (model,) = values["models"]
    aps = [model["subsets"][subset]["ap"] for subset in SUBSETS]
    assert all(0 < ap < 1 for ap in aps)
    (line,) = [line for line in text.splitlines() if line.startswith("little.onnx  64x48")]
    assert line.split()[3:] == ["native", *(f"{ap:.4f}" for ap in aps)]
    assert values["convention"] == "exact"
    assert (model["images"], model["score_threshold"]) == (3, SPEC.score_threshold)
    assert [model["subsets"][subset]["faces"] for subset in SUBSETS] == [3, 6, 9]
    for unit in ("frame", "input"):
        assert sum(one["faces"] for one in model["heights"][unit]) == 9
    assert "landmarks' error" not in text


def test_one_protocol_line_says_what_figures_depend_on(run, little, data):
    _, text, _ = run(little(), "--data", data, "--convention", "toolbox")
    (protocol,) = [line for line in text.splitlines() if line.startswith("protocol: ")]
    for part in (
        "stretch; scores from 0.02; hard NMS at IoU 0.3; at most 750 boxes; a hit has IoU 0.5",
        "WIDER FACE rule: a face that is outside the subset is neither hit nor miss",
        "toolbox (widths x2 - x1 + 1, 1000 points",
        "data: 3 images, faces: 3 easy, 6 medium, 9 hard",
    ):
        assert part in protocol


def test_faces_without_wider_keep_give_one_ap(run, little, data, tmp_path):
    rows = without_keep(data)
    rows[0]["ignore"] = [0, 1, 1, 1]
    write_rows(data, rows)
    out = tmp_path / "out.json"
    status, text, _ = run(little(), "--data", data, "--json", out)
    assert status == 0
    (model,) = json.loads(out.read_text(encoding="utf-8"))["models"]
    assert {name: one["faces"] for name, one in model["subsets"].items()} == {"all": 9}
    assert "a face that is ignored is neither hit nor miss" in text


def test_several_models_share_the_tables(run, little, data):
    other = little("other.onnx")
    _, text, _ = run(little(), other, "--data", data)
    lines = text.splitlines()
    one, two = (line.split() for line in lines if "64x48" in line)
    assert (one[0], two[0]) == ("little.onnx", "other.onnx")
    assert one[1:] == two[1:]
    assert sum(line.startswith("model ") for line in lines) == 4


def test_two_files_of_one_name_are_told_apart_by_their_folders(run, little, data):
    one, other = little("a/net.onnx"), little("b/net.onnx")
    _, text, _ = run(one, other, "--data", data)
    assert [str(path) for path in (one, other) if f"\n{path} " in text] == [str(one), str(other)]


@pytest.mark.parametrize("name", ["--size", "--input-size"])
def test_options_of_the_detector_are_used(run, little, data, tmp_path, name):
    out = tmp_path / "out.json"
    arguments = [name, "128x96", "--resize", "letterbox", "--num-threads", "1", "--json", out]
    status, _, _ = run(little(), "--data", data, "--backend", "native", *arguments)
    assert status == 0
    (model,) = json.loads(out.read_text(encoding="utf-8"))["models"]
    assert (model["input_size"], model["resize"]) == ([128, 96], "letterbox")
    assert model["backend"] == "native"
    assert model["protocol"].startswith("letterbox; ")


def test_input_may_follow_each_frame(run, little, data, tmp_path):
    out = tmp_path / "out.json"
    arguments = ["--size", "frame", "--max-side", "64", "--json", out, "--plots", tmp_path]
    status, text, _ = run(little(), "--data", data, "--backend", "native", *arguments)
    assert status == 0
    (model,) = json.loads(out.read_text(encoding="utf-8"))["models"]
    assert model["input_size"] is None
    assert model["resize"] == "letterbox, input as the frame, up to 64"
    assert "little.onnx  frame's  letterbox, input as the frame, up to 64  native" in text


def test_levels_and_the_smallest_face_are_used_and_told(run, little, data, tmp_path):
    def found(*arguments):
        out = tmp_path / "out.json"
        status, text, _ = run(little(), "--data", data, "--json", out, *arguments)
        assert status == 0
        (model,) = json.loads(out.read_text(encoding="utf-8"))["models"]
        assert f"protocol: {model['resize']}; " in text
        return model

    whole, finest = found(), found("--levels", "8")
    assert whole["resize"] == "stretch"
    assert finest["resize"] == "stretch, levels 8"
    assert finest["subsets"] != whole["subsets"]
    largest = found("--min-face", "70.5")
    assert largest["resize"] == "stretch, faces from 70.5 pixels"
    assert largest["subsets"]["hard"]["ap"] < whole["subsets"]["hard"]["ap"]


def test_landmarks_have_a_table_when_the_model_and_the_truth_have_some(run, little, tmp_path):
    graph = detector_graph(landmarks=True)
    path = little("marks.onnx", graph, detector_spec(graph, score_threshold=0.3))
    faces = evaluation.open_model(path, backend="native").detect(picture(0))[:3]
    # A detection overlaps its own box by all of it: an error of 0, but for the JSON's decimals.
    rows = [{"image": "0.png", "width": 96, "height": 72}]
    boxes = faces.boxes.astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    rows[0].update(boxes=boxes.tolist(), landmarks=faces.landmarks.reshape(-1, 10).tolist())
    assert faces.landmarks.shape == (3, len(LANDMARKS), 2)
    save(tmp_path / "d" / "0.png", picture(0))
    write_rows(tmp_path / "d", rows)
    status, text, _ = run(path, little(), "--data", tmp_path / "d")
    assert status == 0
    marks = text[text.index("landmarks' error") :].splitlines()
    assert marks[1].split() == [
        "model",
        "annotated",
        "found",
        "mean",
        "50",
        "%",
        "90",
        "%",
        "95",
        "%",
    ]
    assert marks[2].split() == ["marks.onnx", "3", "3", *["0.0000"] * 4]
    assert marks[3].split() == ["little.onnx", *["-"] * 6]


def test_plots_have_a_colour_for_each_model_and_pictures_its_name(run, little, data, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    folder = tmp_path / "plots"
    write_rows(data, without_keep(data))
    # One more than there are colours.
    models = [little(f"{i}.onnx") for i in range(len(plots.COLORS))] + [little("b c.onnx")]
    status, text, errors = run(*models, "--data", data, "--plots", folder)
    assert (status, errors) == (0, "")
    shared = {"precision-recall-all.png", "ap-by-height.png"}
    own = {*(f"mistakes-{i}.onnx.png" for i in range(len(plots.COLORS))), "mistakes-b-c.onnx.png"}
    assert {p.name for p in folder.iterdir()} == shared | own
    assert all(str(folder / name) in text for name in shared | own)
    for name in shared:
        shown = cv2.imread(str(folder / name))
        assert [pixels_of(shown, color) > 0 for color in plots.COLORS] == [True] * len(plots.COLORS)


def test_plots_of_one_model_have_one_colour(run, little, data, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run(little(), "--data", data, "--plots", tmp_path)
    assert all((tmp_path / f"precision-recall-{subset}.png").is_file() for subset in SUBSETS)
    shown = cv2.imread(str(tmp_path / "ap-by-height.png"))
    first, second, *_ = (pixels_of(shown, color) for color in plots.COLORS)
    assert first > 0
    assert second == 0


def pixels_of(image, color):
    bgr = [int(color[i : i + 2], 16) for i in (5, 3, 1)]
    return int((image == bgr).all(axis=2).sum())


def test_a_long_curve_is_drawn_with_few_points():
    recall = np.sort(np.random.default_rng(0).random(100_000))
    shown = recall[plots._spread(recall)]
    assert len(shown) <= plots.MOST_POINTS
    assert (shown[0], shown[-1]) == (recall[0], recall[-1])
    # Within one step of each other everywhere.
    assert np.diff(shown).max() < 2 / plots.MOST_POINTS


@pytest.mark.parametrize(("option", "package"), [("--plots", "matplotlib"), ("--data", "scipy")])
def test_a_missing_package_is_named_with_what_installs_it(
    run,
    little,
    data,
    tmp_path,
    monkeypatch,
    option,
    package,
):
    real = builtins.__import__

    def importing(name, *arguments):
        if name.startswith(package):
            raise ImportError(f"No module named {name!r}")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", importing)
    (tmp_path / "wider").mkdir()
    for name in ("face", *SUBSETS):
        (tmp_path / "wider" / f"wider_{name}_val.mat").write_bytes(b"")
    arguments = {
        "--plots": ["--data", data, "--plots", tmp_path],
        "--data": ["--data", tmp_path / "wider"],
    }
    status, out, errors = run(little(), *arguments[option])
    assert (status, out) == (2, "")
    assert 'pip install "edgeface[eval]"' in errors


def test_errors_name_the_file_and_leave_2(run, little, data, tmp_path):
    cases = [
        ([little(), "--data", tmp_path / "none.tar"], "none.tar: No such file"),
        ([tmp_path / "none.onnx", "--data", data], "none.onnx: No such file"),
        ([little(), "--data", data, "--json", tmp_path], "is a directory; expected a file"),
        ([little(), "--data", little()], "no .tar, or a damaged one"),
    ]
    for arguments, message in cases:
        status, out, errors = run(*arguments)
        assert (status, out) == (2, "")
        assert message in errors
    (data / "1.png").write_bytes(b"damaged")
    status, out, errors = run(little(), "--data", data)
    assert (status, out) == (2, "")
    assert "data: 1.png: damaged" in errors


@pytest.mark.slow
@needs_shared
def test_a_released_int8_model_is_evaluated_and_drawn(run, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    data = SHARED / "data" / "faces" / "eval-wider-val.tar"
    if not data.is_file():
        pytest.skip(f"{data} is not here")
    model = SHARED / "weights" / "tmfile" / "rfb320-int8.tmfile"
    out = tmp_path / "out.json"
    status, _, _ = run(model, "--data", data, "--json", out, "--plots", tmp_path)
    assert status == 0
    (values,) = json.loads(out.read_text(encoding="utf-8"))["models"]
    # Integers: the same bytes on every CPU.
    aps = [values["subsets"][subset]["ap"] for subset in SUBSETS]
    assert aps == pytest.approx((0.8280, 0.7267, 0.5331), abs=5e-5)
    assert (tmp_path / "mistakes-rfb320-int8.tmfile.png").stat().st_size > 100_000
