from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import edgeface
from edgeface import FaceDetector, bench, cli, cpu, media, model
from edgeface.backends import BACKENDS
from edgeface.formats import onnx
from edgeface.graph import Concat, Conv, Graph, Node, Reshape, Softmax, Tensor, Transpose
from edgeface.spec import HeadSpec, InputSpec, ModelSpec, PriorSpec, to_json

cv2 = pytest.importorskip("cv2", reason="opencv is not installed")

SHARED = Path(__file__).parents[2] / "shared"
PHOTOGRAPHS = SHARED / "images"
TMFILES = SHARED / "weights" / "tmfile"
needs_shared = pytest.mark.skipif(
    not (PHOTOGRAPHS.is_dir() and TMFILES.is_dir()),
    reason="the photographs and released weights (../shared) are not here",
)

WIDTH, HEIGHT, CHANNELS = 64, 48, 6
MIN_SIZES = {8: (10.0,), 16: (24.0,)}
CELLS = {8: 8 * 6, 16: 4 * 3}
PRIORS = sum(CELLS.values())
# (weights, cells that each is multiplied in) of the six convolutions.
CONVS = [(CHANNELS * 3 * 8 * 8, CELLS[8]), (CHANNELS * CHANNELS * 2 * 2, CELLS[16])]
CONVS += [(CHANNELS * values, cells) for values in (2, 4) for cells in CELLS.values()]


def network(scores="scores", boxes="boxes"):
    """Two levels with random weights: no detector of faces, but what it finds are boxes."""
    random = np.random.default_rng(5)
    tensors = [Tensor("input", (1, 3, HEIGHT, WIDTH))]
    nodes = []

    def add(op, name, inputs, shape):
        tensors.append(Tensor(name, shape))
        nodes.append(Node(op, name, inputs, name))

    def conv(name, data, channels, stride, level):
        inputs = 3 if data == "input" else CHANNELS
        weight = random.normal(0, inputs**-0.5 / stride, (channels, inputs, stride, stride))
        weight = weight.astype(np.float32)
        tensors.append(Tensor(f"{name}.weight", weight.shape, data=weight))
        rows, columns = HEIGHT // level, WIDTH // level
        op = Conv(stride=(stride, stride))
        add(op, name, (data, f"{name}.weight"), (1, channels, rows, columns))
        return rows * columns

    conv("level8", "input", CHANNELS, 8, 8)
    conv("level16", "level8", CHANNELS, 2, 16)
    for head, values in (("s", 2), ("b", 4)):
        for level in MIN_SIZES:
            name = f"{head}{level}"
            count = conv(name, f"level{level}", values, 1, level)
            shape = (1, HEIGHT // level, WIDTH // level, values)
            add(Transpose((0, 2, 3, 1)), f"{name}.t", (name,), shape)
            add(Reshape((1, -1, values)), f"{name}.r", (f"{name}.t",), (1, count, values))
    add(Concat(1), "logits", ("s8.r", "s16.r"), (1, PRIORS, 2))
    add(Concat(1), boxes, ("b8.r", "b16.r"), (1, PRIORS, 4))
    add(Softmax(2), scores, ("logits",), (1, PRIORS, 2))
    return Graph(tuple(nodes), {t.name: t for t in tensors}, "input", (scores, boxes))


SPEC = ModelSpec(
    name="random",
    input=InputSpec(
        name="input",
        width=WIDTH,
        height=HEIGHT,
        channels="rgb",
        mean=(127.0, 127.0, 127.0),
        scale=(1 / 128, 1 / 128, 1 / 128),
        resize="stretch",
    ),
    priors=PriorSpec(
        strides=tuple(MIN_SIZES),
        min_sizes=tuple(MIN_SIZES.values()),
        grid="cell",
        clip=True,
        variances=(0.1, 0.2),
    ),
    heads=HeadSpec("scores", "boxes", None, "offsets", "none"),
    score_threshold=0.6,
    iou_threshold=0.3,
)


@pytest.fixture
def model_path(tmp_path):
    path = tmp_path / "models" / "random.onnx"
    path.parent.mkdir()
    path.write_bytes(onnx.write(network()))
    path.with_suffix(".json").write_text(to_json(SPEC), encoding="utf-8")
    return path


@pytest.fixture
def run(capsys):
    """Runs a command; (status, stdout, stderr)."""

    def run(*arguments):
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def picture(seed=0, width=96, height=72):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(path.suffix, picture() if image is None else image)
    assert encoded
    path.write_bytes(data.tobytes())
    return path


def save_video(path, frames, fps):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no .mp4")
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def as_program(*arguments, before="", **options):
    """The command in a process of its own, with a line of Python before it."""
    program = f"import sys; {before}\nfrom edgeface.cli import main\nsys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


# The program


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"edgeface {edgeface.__version__}\n"


@pytest.mark.parametrize("command", ["detect", "info", "bench", "demo"])
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "--traceback" in capsys.readouterr().out


def test_without_a_command_says_so(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["info"]])
def test_numpy_is_enough_for(arguments, model_path):
    absent = "sys.modules.update(dict.fromkeys(['cv2', 'tqdm', 'skimage', 'onnxruntime']))"
    arguments = [*arguments, model_path] if arguments == ["info"] else arguments
    done = as_program(*arguments, before=absent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_missing_opencv_gives_one_line(monkeypatch, run, model_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    status, out, err = run("detect", "--model", model_path, "a.png")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert 'pip install "edgeface[image]"' in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "none.onnx", "a.png"], "none.onnx"),
        (["--model", "MODEL", "a.png", "--score-threshold", "2"], "score_threshold"),
        (["--model", "MODEL", "a.png", "--num-threads", "0"], "num_threads"),
        (["--model", "MODEL", "a.png", "--affinity", "9999"], "that this process may use"),
        (["--model", "MODEL", "a.png", "--spec", "none.json"], "none.json"),
        (["--model", "a.png", "a.png"], "unknown kind of model"),
    ],
)
def test_an_error_is_one_line(run, model_path, arguments, says):
    arguments = [model_path if argument == "MODEL" else argument for argument in arguments]
    status, out, err = run("detect", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("edgeface: error: ")
    assert says in err


def test_traceback_on_request(monkeypatch, model_path):
    arguments = ["detect", "--model", str(model_path), "a.png", "--num-threads", "0"]
    with pytest.raises(ValueError, match="num_threads"):
        cli.main([*arguments, "--traceback"])
    monkeypatch.setenv("EDGEFACE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="num_threads"):
        cli.main(arguments)


@pytest.mark.parametrize(
    "option", [["--roi", "1,2,3"], ["--input-size", "320"], ["--roi", "-1,0,2,2"]]
)
def test_malformed_option_is_refused(capsys, option):
    with pytest.raises(SystemExit) as ended:
        cli.main(["detect", "--model", "m.onnx", "a.png", *option])
    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch, run, model_path, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceDetector, "detect", interrupt)
    status, out, err = run("detect", "--model", model_path, save(tmp_path / "a.png"))
    assert (status, out, err) == (130, "", "edgeface: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="closes a POSIX pipe")
def test_closed_pipe_is_quiet(model_path, tmp_path):
    image = save(tmp_path / "a.png")
    read, write = os.pipe()
    os.close(read)
    program = "import sys; from edgeface.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "detect", "--model", model_path, image]
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b""
    assert done.returncode == 141


# detect


def test_json_has_what_the_api_returns(run, model_path, tmp_path):
    image = save(tmp_path / "a.png")
    status, out, err = run("detect", "--model", model_path, image, "--json", "--max-faces", 3)
    with FaceDetector(model_path, max_faces=3) as detector:
        faces = detector.detect(picture()).to_dict()
    assert (status, err) == (0, "")
    assert len(faces["faces"]) == 3
    assert lines_of(out) == [{"file": str(image), "width": 96, "height": 72, **faces}]


def test_every_option_reaches_the_detector(monkeypatch, run, model_path, tmp_path):
    given = {}

    class Spy(FaceDetector):
        def __init__(self, path, **options):
            given.update(options)
            super().__init__(path, **options)

    monkeypatch.setattr(cli.detect, "FaceDetector", Spy)
    wanted = {
        "spec": str(model_path.with_suffix(".json")),
        "backend": "native",
        "num_threads": 1,
        "resize": "letterbox",
        "score_threshold": 0.5,
        "iou_threshold": 0.4,
        "nms": "blending",
        "max_faces": 7,
        "min_face": 5.0,
        "max_side": 640,
    }
    options = [part for k, v in wanted.items() for part in (f"--{k.replace('_', '-')}", v)]
    image = save(tmp_path / "a.png")
    allowed = tuple(sorted(cpu.allowed_cpus()))
    options += ["--input-size", f"{WIDTH}x{HEIGHT}", "--affinity", ",".join(map(str, allowed))]
    assert run("detect", "--model", model_path, image, *options, "--levels", "16")[0] == 0
    more = {"input_size": (WIDTH, HEIGHT), "affinity": allowed, "levels": (16,)}
    assert given == {**wanted, **more}


def test_the_input_may_follow_each_frame(run, model_path, tmp_path):
    """Faces are those of a network of the picture's size."""
    image = save(tmp_path / "a.png")
    height, width = picture().shape[:2]
    size = f"{-(-width // 16) * 16}x{-(-height // 16) * 16}"
    fixed = ("--input-size", size, "--resize", "letterbox")
    outputs = [
        run("detect", "--model", model_path, image, "--json", "--score-threshold", 0.3, *options)
        for options in (fixed, ("--input-size", "frame"))
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == 0
    assert lines_of(outputs[0][1])[0]["faces"]


def test_text_has_a_line_for_every_image_and_face(run, model_path, tmp_path):
    images = [save(tmp_path / f"{name}.png", picture(i)) for i, name in enumerate("ab")]
    status, out, _ = run("detect", "--model", model_path, *images, "--max-faces", 1)
    lines = out.splitlines()
    assert status == 0
    assert [lines[0], lines[2]] == [f"{image}: 1 face" for image in images]
    assert lines[1].startswith("  score 0.")
    assert len(lines) == 4


def test_directory_is_searched_in_order(run, model_path, tmp_path):
    shown = [save(tmp_path / "in" / name) for name in ("b.png", "a.JPG", "ä/ß 1.bmp", "c.d/e.png")]
    save(tmp_path / "in" / "._a.png")
    save(tmp_path / "in" / ".cache" / "a.png")
    (tmp_path / "in" / "notes.txt").write_text("no image", encoding="utf-8")
    status, out, err = run("detect", "--model", model_path, tmp_path / "in", "--json")
    assert (status, err) == (0, "")
    assert [line["file"] for line in lines_of(out)] == sorted(map(str, shown))


def test_a_file_given_twice_is_looked_at_once(run, model_path, tmp_path):
    image = save(tmp_path / "in" / "a.png")
    _, out, _ = run("detect", "--model", model_path, image, image.parent, image, "--json")
    assert len(lines_of(out)) == 1


BROKEN = {
    "text.jpg": b"not a picture",
    "empty.png": b"",
    "cut.png": cv2.imencode(".png", picture())[1].tobytes()[:200],
    "text.mp4": b"not a video",
}


def test_unreadable_files_are_named_and_the_rest_goes_on(run, model_path, tmp_path):
    image = save(tmp_path / "a.png")
    (tmp_path / "none").mkdir()
    names = [*BROKEN, "missing.jpg", "missing.mp4"]
    for name, data in BROKEN.items():
        (tmp_path / name).write_bytes(data)
    inputs = [*(tmp_path / name for name in names), tmp_path / "none", image]
    status, out, err = run("detect", "--model", model_path, *inputs, "--json")
    assert status == 1
    assert [line["file"] for line in lines_of(out)] == [str(image)]
    for name in [*names, "none"]:
        assert (
            sum(line.startswith(f"edgeface: {tmp_path / name}: ") for line in err.splitlines()) == 1
        )


def test_roi_limits_where_it_looks(run, model_path, tmp_path):
    image, small = save(tmp_path / "a.png"), save(tmp_path / "b.png", picture(1, 30, 30))
    arguments = ["detect", "--model", model_path, image, small, "--roi", "10,20,40,30", "--json"]
    status, out, err = run(*arguments)
    (found,) = lines_of(out)
    boxes = np.array([face["box"] for face in found["faces"]])
    assert len(boxes) > 0
    assert (boxes >= [10, 20, 10, 20]).all()
    assert (boxes <= [50, 50, 50, 50]).all()
    # It does not lie inside the second image.
    assert (status, err.count(str(small))) == (1, 1)


def test_names_that_a_terminal_lacks_do_not_stop_it(model_path, tmp_path):
    image = save(tmp_path / "ж.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    text = as_program("detect", "--model", model_path, image, env=environment)
    assert (text.returncode, text.stderr) == (0, "")
    assert "\\u0436.png: " in text.stdout
    jsonl = as_program("detect", "--model", model_path, image, "--json", env=environment)
    assert json.loads(jsonl.stdout)["file"] == str(image)


# What pictures are read as


def test_gray_alpha_and_16_bit_are_read_as_8_bit_bgr(tmp_path):
    bgr = picture()
    gray = bgr[:, :, 0]
    alpha = np.dstack([bgr, gray])
    deep = bgr.astype(np.uint16) * 257
    kinds = {"gray": (gray, np.dstack([gray] * 3)), "alpha": (alpha, bgr), "deep": (deep, bgr)}
    for name, (written, expected) in kinds.items():
        found = media.read_image(save(tmp_path / f"{name}.png", written))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected, err_msg=name)


def with_orientation(jpeg, orientation):
    """The JPEG with an EXIF segment that has nothing but the orientation."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, orientation, turns):
    plain = save(tmp_path / "plain.jpg", np.kron(picture(2, 4, 3), np.ones((16, 16, 1), np.uint8)))
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(with_orientation(plain.read_bytes(), orientation))
    expected = np.rot90(media.read_image(plain), turns)
    np.testing.assert_array_equal(media.read_image(turned), expected)


# detect -o


def test_one_image_is_drawn_into_a_file(run, model_path, tmp_path):
    image, drawn = save(tmp_path / "a.jpg"), tmp_path / "new" / "b.png"
    status, out, _ = run("detect", "--model", model_path, image, "-o", drawn)
    frame = media.read_image(image)
    with FaceDetector(model_path) as detector:
        expected = detector.detect(frame).draw(frame)
    assert status == 0
    assert str(drawn) in out
    np.testing.assert_array_equal(media.read_image(drawn), expected)


def test_directory_keeps_its_structure(run, model_path, tmp_path):
    names = ["a.png", "b/a.png", "b/c/ü.jpg"]
    for name in names:
        save(tmp_path / "in" / name)
    status, out, _ = run(
        "detect", "--model", model_path, tmp_path / "in", "-o", tmp_path / "out", "--json"
    )
    drawn = sorted(p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/**/*.*"))
    assert (status, drawn, len(lines_of(out))) == (0, names, 3)


def test_output_inside_the_input_is_not_searched(run, model_path, tmp_path):
    save(tmp_path / "a.png")
    arguments = ["detect", "--model", model_path, tmp_path, "-o", tmp_path / "out"]
    first, again = run(*arguments), run(*arguments)
    assert first == again
    assert first[0] == 0
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a.png"]


def test_inputs_are_never_overwritten(run, model_path, tmp_path):
    image = save(tmp_path / "in" / "a.png")
    (tmp_path / "link").symlink_to(image.parent)
    before = image.read_bytes()
    for inputs, output in [
        ([image], image),
        ([image], image.parent),
        ([image.parent], image.parent),
        ([image.parent], tmp_path / "link"),
        ([image], tmp_path / "link" / "a.png"),
    ]:
        status, out, err = run("detect", "--model", model_path, *inputs, "-o", output)
        assert (status, out) == (2, "")
        assert "overwrite the input" in err
    assert image.read_bytes() == before


def test_unusable_outputs_are_refused(run, model_path, tmp_path):
    one, other = save(tmp_path / "in" / "a.png"), save(tmp_path / "too" / "a.png")
    for inputs, output, says in [
        ([one, other], "out", "both be written"),
        ([one, other], "out.png", "must be a directory"),
        ([one.parent], "out.png", "must be a directory"),
        ([one], "out.mp4", "names a video"),
        ([tmp_path / "a.mp4"], "out.png", ".mp4"),
    ]:
        status, _, err = run("detect", "--model", model_path, *inputs, "-o", tmp_path / output)
        assert (status, says in err) == (2, True), err
        assert not (tmp_path / output).exists()


def test_file_without_a_suffix_is_drawn_as_png(run, model_path, tmp_path):
    image = tmp_path / "photo"
    image.write_bytes(save(tmp_path / "a.png").read_bytes())
    assert run("detect", "--model", model_path, image, "-o", tmp_path / "out")[0] == 0
    assert media.read_image(tmp_path / "out" / "photo.png").shape == picture().shape


# Videos


@pytest.fixture
def video(tmp_path):
    # Large even blocks survive the compression.
    frames = [np.kron(picture(i, 6, 4), np.ones((16, 16, 1), np.uint8)) for i in range(5)]
    return save_video(tmp_path / "clip.mp4", frames, 12.5)


def test_video_frames_have_number_and_time(run, model_path, video):
    status, out, err = run("detect", "--model", model_path, video, "--json")
    lines = lines_of(out)
    assert (status, err) == (0, "")
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["time"] for line in lines] == [0.0, 0.08, 0.16, 0.24, 0.32]
    assert {(line["width"], line["height"]) for line in lines} == {(96, 64)}


def test_video_as_text(run, model_path, video):
    status, out, _ = run("detect", "--model", model_path, video)
    titles = [line for line in out.splitlines() if not line.startswith(" ")]
    assert status == 0
    assert len(titles) == 5
    assert titles[1].startswith(f"{video} frame 1 (0.08 s): ")


@pytest.mark.parametrize("output", ["drawn.mp4", "out"])
def test_drawn_video_has_the_source_s_rate_and_size(run, model_path, video, tmp_path, output):
    status, out, _ = run("detect", "--model", model_path, video, "-o", tmp_path / output)
    path = tmp_path / output / "clip.mp4" if output == "out" else tmp_path / output
    assert (status, out.count("\n")) == (0, 1)
    with media.Video(path) as drawn:
        frames = [frame for _, frame in drawn]
        assert drawn.fps == pytest.approx(12.5)
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 5
    with media.Video(video) as source:
        _, plain = next(iter(source))
    assert (frames[0] != plain).any()


# Progress


def test_progress_goes_to_a_terminal_only(monkeypatch, run, model_path, tmp_path):
    images = [save(tmp_path / f"{name}.png") for name in "ab"]
    arguments = ["detect", "--model", model_path, *images, "--json"]
    assert run(*arguments)[2] == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    status, out, err = run(*arguments)
    assert (status, len(lines_of(out))) == (0, 2)
    assert err == 'edgeface: no progress bar: pip install "edgeface[image]"\n'


def test_progress_bar_leaves_the_results_alone(monkeypatch, run, model_path, tmp_path):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    images = [save(tmp_path / f"{name}.png") for name in "ab"]
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    status, out, err = run("detect", "--model", model_path, *images, tmp_path / "c.png", "--json")
    assert (status, len(lines_of(out))) == (1, 2)
    assert "0/3" in err
    assert f"edgeface: {tmp_path / 'c.png'}: " in err


# info


def test_info_says_what_a_model_is(run, model_path):
    status, out, err = run("info", model_path, "--layers")
    fields = dict(line.split(None, 1) for line in out.splitlines() if line)
    assert (status, err) == (0, "")
    assert fields["format"] == "ONNX, float32"
    assert fields["input"] == "input 1x3x48x64 float32"
    assert fields["spec"] == f"from {model_path.with_suffix('.json')}"
    for field in dataclasses.fields(SPEC.priors):
        assert f"priors.{field.name}" in fields
    assert fields["priors"] == "60"
    assert fields["faces"] == "about 100x100 to 240x240 pixels in a frame of 640x480"
    # Priors of stride 8 are 10 input pixels, those of stride 16 are 24, and a frame's pixel is a tenth of one.
    grids = [line for line in out.splitlines() if line.startswith("stride ")]
    assert grids[0].endswith("48 priors: 8x6 x 1 min_sizes; not needed from --min-face 240 on")
    assert grids[1].endswith("12 priors: 4x3 x 1 min_sizes")
    macs = sum(weights * cells for weights, cells in CONVS)
    assert fields["multiply-adds"] == f"{macs / 1e6:.1f} M"
    assert "Conv       s8" in out


def test_info_says_which_faces_it_is_for_in_frames_of_another_size(run, model_path):
    _, out, _ = run("info", model_path, "--frame-size", "128x48")
    assert "about 20x10 to 48x24 pixels in a frame of 128x48" in out
    assert "not needed from --min-face 48 on" in out


def test_info_as_json(run, model_path):
    _, out, _ = run("info", model_path, "--json", "--layers")
    (values,) = lines_of(out)
    weights = sum(weights for weights, _ in CONVS)
    assert (values["weights"], values["weight_bytes"]) == (weights, 4 * weights)
    assert values["bytes"] == model_path.stat().st_size
    assert values["spec"] == json.loads(to_json(SPEC))
    assert values["spec_problem"] is None
    assert [level["priors"] for level in values["levels"]] == list(CELLS.values())
    assert [level["dispensable_from"] for level in values["levels"]] == [24, None]
    assert values["layer_counts"]["Conv"] == len(CONVS)
    assert len(values["layers"]) == sum(values["layer_counts"].values())
    assert sum(layer["multiply_adds"] for layer in values["layers"]) == values["multiply_adds"]
    native = values["backends"][0]
    assert (native["backend"], native["refusal"]) == ("native", None)
    assert native["isa"] in edgeface._core.isas()


def test_info_shows_what_runs_together_and_what_that_saves(run, model_path):
    _, out, _ = run("info", model_path, "--json", "--plan")
    (values,) = lines_of(out)
    plan = values["plan"]
    chains = [step["chain"] for step in plan]
    assert chains == sorted(chains)
    _, out, _ = run("info", model_path, "--plan", "2")
    every = sum(step["shape"][0] * step["row_bytes"] for step in plan)
    assert out.splitlines()[-1].endswith(f"without chains {every:,}")
    assert "depthwise" in out or "conv" in out


def test_info_has_no_plan_unless_asked(run, model_path):
    _, out, _ = run("info", model_path, "--json")
    (values,) = lines_of(out)
    assert "plan" not in values


def test_info_at_another_input_size(run, model_path):
    _, out, _ = run("info", model_path, "--json", "--input-size", "128x96")
    (values,) = lines_of(out)
    assert values["input"]["shape"] == [1, 3, 96, 128]
    assert values["priors"] == 4 * 60


@pytest.fixture
def unknown_path(tmp_path):
    """A network that no published model is like, without a spec."""
    path = tmp_path / "unknown.onnx"
    path.write_bytes(onnx.write(network(scores="confidence")))
    return path


def test_info_without_a_spec_says_how_to_write_one(run, unknown_path):
    status, out, _ = run("info", unknown_path)
    assert status == 0
    assert "confidence 1x60x2 float32" in out
    assert f"edgeface info {unknown_path} --write-spec ultraface" in out


def test_written_spec_is_read_and_checked(run, unknown_path):
    sidecar = unknown_path.with_suffix(".json")
    status, out, _ = run("info", unknown_path, "--write-spec", "ultraface")
    assert status == 0
    assert str(sidecar) in out
    assert "does not fit yet" in out
    assert "confidence" in out
    values = json.loads(sidecar.read_text(encoding="utf-8"))
    assert (values["name"], values["licence"], values["training_data"]) == ("unknown", None, None)
    values["heads"]["scores"] = "confidence"
    values["priors"].update(strides=[8, 16], min_sizes=[[10], [24]])
    sidecar.write_text(json.dumps(values), encoding="utf-8")
    assert model.load(unknown_path).spec_source == str(sidecar)
    (found,) = lines_of(run("info", unknown_path, "--json")[1])
    assert (found["priors"], found["spec_problem"]) == (60, None)


def test_existing_spec_is_not_overwritten(run, model_path):
    status, _, err = run("info", model_path, "--write-spec", "ultraface")
    assert (status, err.count("\n")) == (2, 1)
    assert str(model_path.with_suffix(".json")) in err
    assert model.load(model_path).spec == SPEC


@pytest.mark.parametrize(
    ("min_sizes", "reason"),
    [
        (((10.0, 16.0), (24.0,)), "output 'boxes' has 240 values; the spec's 108 priors need 432"),
        (((10.0,), ()), "a level has no min_sizes"),
    ],
)
def test_info_says_why_heads_do_not_fit_their_spec(run, model_path, min_sizes, reason):
    priors = json.loads(to_json(SPEC))
    priors["priors"]["min_sizes"] = min_sizes
    model_path.with_suffix(".json").write_text(json.dumps(priors), encoding="utf-8")
    status, out, _ = run("info", model_path)
    assert status == 0
    assert reason in out


def test_info_says_that_a_spec_with_too_few_priors_does_not_fit(run, model_path):
    values = json.loads(to_json(SPEC))
    values["priors"]["strides"] = [2 * stride for stride in SPEC.priors.strides]
    model_path.with_suffix(".json").write_text(json.dumps(values), encoding="utf-8")
    status, out, _ = run("info", model_path)
    assert status == 0
    assert "does not fit: " in out


# bench


def test_bench_times_every_stage(run, model_path):
    status, out, err = run("bench", model_path, "--frames", 12, "--frame-size", "80x60", "--json")
    (values,) = lines_of(out)
    (row,) = values["backends"]
    assert (status, err, values["frames"]) == (0, "", 12)
    assert values["frame"] == "80x60 noise"
    assert (row["backend"], row["relative"]) == ("native", 1.0)
    assert row["isa"] in edgeface._core.isas()
    assert set(row["milliseconds"]) == set(bench.STAGES)
    assert set(values["before"]) == set(values["after"]) == set(vars(bench.conditions()))
    for statistics in row["milliseconds"].values():
        assert 0 <= statistics["min"] <= statistics["median"] <= statistics["p95"]
    assert row["frames_per_second"] == pytest.approx(1000 / row["milliseconds"]["total"]["median"])


def test_bench_prints_a_table(run, model_path, tmp_path):
    image = save(tmp_path / "a.png")
    status, out, _ = run("bench", model_path, "--frames", 3, "--image", image)
    assert status == 0
    assert f"96x72 {image}, 3 detects" in out
    assert f"edgeface {edgeface.__version__}" in out
    assert {"before", "after"} <= {line.split()[0] for line in out.splitlines() if line}
    header, *rows = out.splitlines()[-4:]
    assert header.split()[-6:] == [*bench.STAGES, "frames/s", "relative"]
    assert [row.split()[-5 if i else -7] for i, row in enumerate(rows)] == ["median", "p95", "min"]


@pytest.mark.onnx
def test_bench_compares_backends_after_their_faces(monkeypatch, run, model_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.setattr(BACKENDS["tengine"], "unavailable", lambda: "it is not here")
    arguments = ["bench", model_path, "--frames", 4, "--backend", "all", "--json"]
    status, out, _ = run(*arguments)
    (values,) = lines_of(out)
    assert status == 0
    assert [row["backend"] for row in values["backends"]] == ["native", "onnxruntime"]
    assert values["agreement"].startswith("all find the same ")
    monkeypatch.setattr(bench, "difference", lambda *_: "the second lacks a face")
    status, out, _ = run(*arguments)
    (values,) = lines_of(out)
    assert status == 1
    assert values["agreement"] == "native and onnxruntime differ: the second lacks a face"


def test_bench_all_says_what_it_leaves_out(monkeypatch, run, model_path):
    monkeypatch.setattr(BACKENDS["onnxruntime"], "unavailable", lambda: "it is not here")
    status, out, _ = run("bench", model_path, "--frames", 2, "--backend", "all")
    assert status == 0
    assert "no onnxruntime  it is not here" in out


def test_difference_of_faces():
    def faces(*rows):
        return edgeface.Faces(np.array(rows, np.float32).reshape(-1, 5))

    one, two = (10, 10, 50, 50, 0.9), (60, 10, 90, 50, 0.8)
    assert bench.difference(faces(one, two), faces(two, one), 0.7) is None
    assert "second lacks the face at 60.0, 10.0" in bench.difference(
        faces(one, two), faces(one), 0.7
    )
    assert "first lacks" in bench.difference(faces(), faces(one), 0.7)
    # 0.4 of 40 pixels more: an IoU of 0.990; 0.5 more: below 0.99.
    assert bench.difference(faces(one), faces((10, 10, 50.4, 50, 0.9)), 0.7) is None
    assert bench.difference(faces(one), faces((10, 10, 50.5, 50, 0.9)), 0.7) is not None
    assert bench.difference(faces(one), faces((10, 10, 50, 50, 0.902)), 0.7) is not None
    # What is at the threshold may fall on either side.
    assert bench.difference(faces(one, (60, 10, 90, 50, 0.7005)), faces(one), 0.7) is None


# demo


def test_demo_finds_the_faces_in_a_picture_of_the_caller(run, model_path, tmp_path):
    source, drawn = tmp_path / "mine.png", tmp_path / "faces.png"
    media.write_image(source, picture(5))
    status, out, _ = run("demo", source, "--model", model_path, "-o", drawn)
    with FaceDetector(model_path) as detector:
        faces = detector.detect(picture(5))
    assert status == 0
    assert f"{source}: {len(faces)} faces" in out
    np.testing.assert_array_equal(media.read_image(drawn), faces.draw(picture(5)))


def test_demo_names_a_picture_that_cannot_be_read(run, model_path, tmp_path):
    status, _, err = run("demo", tmp_path / "none.png", "--model", model_path)
    assert (status, err.count("\n")) == (2, 1)
    assert "none.png" in err


def test_demo_draws_the_astronaut(monkeypatch, run, model_path, tmp_path):
    rgb = picture(3)
    package = types.ModuleType("skimage")
    package.data = types.SimpleNamespace(astronaut=lambda: rgb)
    monkeypatch.setitem(sys.modules, "skimage", package)
    drawn = tmp_path / "faces.png"
    status, out, _ = run("demo", "--model", model_path, "-o", drawn)
    frame = np.ascontiguousarray(rgb[:, :, ::-1])
    with FaceDetector(model_path) as detector:
        faces = detector.detect(frame)
    assert status == 0
    assert f"astronaut: {len(faces)} faces" in out
    assert f"drawn in {drawn}" in out
    np.testing.assert_array_equal(media.read_image(drawn), faces.draw(frame))


def test_demo_without_scikit_image_gives_one_line(monkeypatch, run, model_path):
    monkeypatch.setitem(sys.modules, "skimage", None)
    status, _, err = run("demo", "--model", model_path)
    assert (status, err.count("\n")) == (2, 1)
    assert 'pip install "edgeface[demo]"' in err


# The released models on real photographs


@needs_shared
def test_real_photographs(run, tmp_path):
    arguments = ["detect", "--model", TMFILES / "rfb320.tmfile", PHOTOGRAPHS, "--json"]
    status, out, err = run(*arguments, "-o", tmp_path / "out")
    counts = {Path(line["file"]).name: len(line["faces"]) for line in lines_of(out)}
    assert (status, err) == (0, "")
    # Counted in the pictures: everyone in these three looks at the camera.
    assert {name: counts[name] for name in ("10.jpg", "2.jpg", "3.jpg")} == {
        "10.jpg": 19,
        "2.jpg": 4,
        "3.jpg": 5,
    }
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(counts)


@needs_shared
@pytest.mark.onnx
def test_backends_agree_on_a_photograph(run):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    image = PHOTOGRAPHS / "1.jpg"
    arguments = ["bench", TMFILES / "slim320.tmfile", "--backend", "all", "--image", image]
    status, out, _ = run(*arguments, "--frames", 1)
    assert status == 0
    assert "all find the same " in out


@needs_shared
def test_info_of_a_quantised_model_says_its_precision(run):
    status, out, _ = run("info", TMFILES / "rfb320-int8.tmfile")
    assert status == 0
    assert "Tengine tmfile, int8" in out
    assert re.search(r"backend native +runs it with \w+ kernels", out)
    assert "from the published ultraface models" in out
