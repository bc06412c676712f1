"""A board with nothing on it: a read-only file system, no home directory, locale C, no package but NumPy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reference
from edgeface import FaceDetector
from edgeface import spec as specs
from edgeface.formats import onnx
from reference import SHARED, needs_shared, picture

# Not writable for root either.
READ_ONLY = "/sys"
# -I takes no PYTHON variable and neither this directory's modules nor the user's; packages lie where they do here.
PROLOGUE = """\
import sys
sys.path[:] = {path!r}
for name in {missing!r}:
    sys.modules[name] = None
written = []
def watch(event, arguments):
    # A number is a pipe to a child process.
    if event == "open" and isinstance(arguments[0], str) and arguments[0] != "/dev/null":
        import os
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])
sys.addaudithook(watch)
"""
OPTIONAL = ("cv2", "onnxruntime", "tqdm", "PIL", "torch")

pytestmark = pytest.mark.skipif(
    not os.path.ismount(READ_ONLY), reason=f"{READ_ONLY} is no file system of its own"
)


def run(program, *arguments, utf8=True, missing=OPTIONAL, status=0):
    """What a program prints on a bare machine."""
    text = PROLOGUE.format(path=sys.path, missing=missing) + program
    command = [sys.executable, "-I", "-B", "-X", f"utf8={int(utf8)}", "-c", text]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=READ_ONLY,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == status, done.stderr.decode()
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    graph = reference.detector_graph()
    path = tmp_path_factory.mktemp("Modelle für Häuser") / "модель 顔.onnx"
    path.write_bytes(onnx.write(graph))
    path.with_suffix(".json").write_text(specs.to_json(reference.detector_spec(graph)))
    np.save(path.with_suffix(".npy"), picture())
    return path


DETECT = """\
import json
import os
import numpy as np
import edgeface
detector = edgeface.FaceDetector(sys.argv[1], num_threads=2)
faces = detector.detect(np.load(sys.argv[2]))
camera = edgeface.FaceDetector(sys.argv[1], channels="nv12").detect(np.zeros((60, 60), np.uint8))
print(json.dumps({"rows": faces.rows.tolist(), "written": written, "home": os.environ.get("HOME")}))
"""


@pytest.mark.parametrize("utf8", [True, False])
def test_faces_are_found_with_nothing_at_hand(model, utf8):
    out, err = run(DETECT, model, model.with_suffix(".npy"), utf8=utf8)
    found = json.loads(out)
    want = FaceDetector(model, backend="native").detect(picture())
    assert len(want) > 0
    assert found == {"rows": want.rows.tolist(), "written": [], "home": None}
    assert err == b""


COMMAND = """\
from edgeface import cli
status = cli.main(sys.argv[1:])
assert not written, written
sys.exit(status)
"""


def test_the_commands_that_need_nothing_run(model):
    out, err = run(COMMAND, "info", model, utf8=False)
    assert b"input" in out
    assert err == b""
    out, err = run(COMMAND, "bench", model, "--frames", 2, "--json", utf8=False)
    assert json.loads(out)["backends"][0]["backend"] == "native"
    assert err == b""


def test_doctor_finds_this_machine_sound():
    # A second's timing is not what this is about.
    shorter = "from edgeface import doctor\ndoctor.SECONDS = 0.01\n"
    out, err = run(shorter + COMMAND, "doctor")
    assert b"\nself-test " in out
    assert b"\ntime " in out
    assert err == b""


def test_an_error_names_a_file_that_the_terminal_cannot_write(model):
    _, err = run(COMMAND, "info", model.with_name("нет.onnx"), utf8=False, status=2)
    assert err.startswith(b"edgeface: error: ")
    assert err.count(b"\n") == 1
    assert b"No such file" in err


def test_without_opencv_a_command_for_pictures_says_what_it_needs(model):
    _, err = run(COMMAND, "detect", "--model", model, "a.jpg", status=2)
    assert b"edgeface: error: pictures need OpenCV" in err
    assert b'pip install "edgeface[image]"' in err


def test_pictures_of_any_name_are_read_and_drawn(model, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    source, target = tmp_path / "лица ö.png", tmp_path / "顔" / "ö.png"
    source.write_bytes(cv2.imencode(".png", picture())[1].tobytes())
    program = COMMAND.replace("assert not written, written\n", "")
    _, err = run(program, "detect", "--model", model, source, "-o", target, missing=(), utf8=False)
    assert err == b""
    assert cv2.imdecode(np.frombuffer(target.read_bytes(), np.uint8), 1).shape == picture().shape


VIDEO = """\
import os
from pathlib import Path
import numpy as np
from edgeface import media
name = Path(sys.argv[1])
with media.VideoWriter(name, 10) as writer:
    for _ in range(3):
        writer.write(np.full((48, 64, 3), 99, np.uint8))
with media.Video(name) as video:
    print([frame.shape for _, frame in video])
try:
    media.Video(Path(os.fsdecode(os.fsencode(sys.argv[2]))))
except media.MediaError as error:
    print(ascii(str(error)))
"""


def test_videos_of_any_name_are_read_and_written_or_refused(tmp_path):
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    strange = tmp_path / os.fsdecode(b"\xff.mp4")
    strange.write_bytes(b"")
    out, _ = run(VIDEO, tmp_path / "ö 顔.mp4", strange, missing=(), utf8=False)
    shapes, refusal = out.decode().splitlines()
    assert shapes == str([(48, 64, 3)] * 3)
    assert "OpenCV opens videos with names in UTF-8 only" in refusal


PEAK = """\
import re
import numpy as np
import edgeface
for channels, shape in (("bgr", (720, 1280, 3)), ("nv12", (1080, 1280)), ("yuyv", (720, 1280, 2))):
    detector = edgeface.FaceDetector(sys.argv[1], channels=channels, num_threads=4)
    for _ in range(3):
        detector.detect(np.full(shape, 77, np.uint8))
    detector.close()
with open("/proc/self/status") as status:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
"""


@needs_shared
@pytest.mark.skipif("EDGEFACE_EMULATED" in os.environ, reason="the emulator's memory counts too")
@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="no /proc tells the memory used"
)
@pytest.mark.parametrize("name", ["rfb320", "slim320"])
def test_a_process_that_detects_in_720p_stays_under_64_megabytes(name):
    out, _ = run(PEAK, SHARED / "weights" / "tmfile" / f"{name}.tmfile")
    assert int(out) * 1024 < 64_000_000
