"""packaging/check_wheel.py on wheels that are right and deliberately wrong."""

from __future__ import annotations

import dataclasses
import os
import sysconfig
import zipfile
from pathlib import Path

import pytest

check_wheel = pytest.importorskip(
    "check_wheel", reason="auditwheel (dependency group wheels) is not here"
)

ROOT = Path(__file__).resolve().parents[1]
# `nox -s wheels` says where it put what it built.
WHEELS = sorted(Path(os.environ.get("EDGEFACE_WHEELS", os.devnull)).glob("*manylinux*.whl"))
NAME = "edgeface-0.1.0-cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64.whl"
TAGS = "Tag: cp311-cp311-manylinux2014_aarch64\nTag: cp311-cp311-manylinux_2_17_aarch64\n"
EXTENSION = check_wheel.Extension(
    arch="aarch64",
    libraries=frozenset({"libc.so.6", "libm.so.6"}),
    exports=frozenset({"PyInit__core"}),
    glibc=(2, 17),
    has_run_path=False,
    has_symbols=False,
)
AUDIT = {"overall_tag": "manylinux_2_17_aarch64", "unsupported_isa": False}
WANTED = frozenset({"edgeface/__init__.py", "edgeface/py.typed"})
METADATA = frozenset(
    f"edgeface-0.1.0.dist-info/{name}"
    for name in ("WHEEL", "RECORD", "METADATA", "entry_points.txt", "licenses/LICENSE")
)
INSIDE = WANTED | METADATA | {"edgeface/_core.cpython-311-aarch64-linux-gnu.so"}


def tags(name=NAME, inside=TAGS):
    return check_wheel.read_tags(name, {"edgeface-0.1.0.dist-info/WHEEL": inside.encode()})


# --- Tags ------------------------------------------------------------------------------------------


def test_the_tags_of_a_right_wheel_name_its_architecture_and_python():
    assert tags() == ("aarch64", "cp311", [])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (NAME.replace("edgeface", "edgeface_slim"), "its name is edgeface-slim"),
        (NAME.replace("2_17", "2_34"), "its platforms are"),
        (NAME.replace("manylinux2014_aarch64.manylinux_2_17", "linux"), "its platforms are"),
        (NAME.replace("manylinux2014_aarch64.", "manylinux2014_armv7l."), "its platforms are"),
        (NAME.replace("cp311-cp311", "cp311-none"), "its interpreter and ABI"),
        (NAME.replace("cp311-cp311", "cp310.cp311-abi3"), "its interpreter and ABI"),
        (NAME.replace("cp311", "cp312"), "its WHEEL file says"),
    ],
)
def test_wrong_tags_are_named(name, problem):
    assert any(line.startswith(problem) for line in tags(name)[2])


# --- Content ---------------------------------------------------------------------------------------


def test_the_content_of_a_right_wheel_is_what_it_has_to_be():
    assert not check_wheel.content_problems(INSIDE, WANTED, 2_000_000)


@pytest.mark.parametrize("name", sorted(WANTED))
def test_a_missing_file_is_named(name):
    assert check_wheel.content_problems(INSIDE - {name}, WANTED, 1) == [f"{name} is missing"]


def test_missing_metadata_is_named():
    found = check_wheel.content_problems(INSIDE - METADATA, WANTED, 1)
    assert found == [
        f"*.dist-info/{name} is missing" for name in ("entry_points.txt", "licenses/LICENSE")
    ]


def test_a_file_of_nobody_is_named():
    found = check_wheel.content_problems(INSIDE | {"tests/conftest.py"}, WANTED, 1)
    assert found == ["tests/conftest.py does not belong there"]


def test_a_wheel_of_more_than_2_mb_is_too_large():
    found = check_wheel.content_problems(INSIDE, WANTED, 2_000_001)
    assert found == ["2,000,001 bytes are more than 2,000,000"]


def test_every_source_file_has_to_be_there_and_what_tools_leave_behind_has_not(tmp_path):
    kept = ["edgeface/a.py", "edgeface/py.typed", "edgeface/models/b.json"]
    left = [
        "edgeface/__pycache__/a.pyc",
        "edgeface/.cache/x",
        "edgeface/_core.so",
        "edgeface/c.pyi.in",
    ]
    for name in kept + left:
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert check_wheel.sources(tmp_path) == set(kept)


# --- The extension ---------------------------------------------------------------------------------


def test_a_right_extension_has_no_problems():
    assert not check_wheel.extension_problems(EXTENSION, "aarch64")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"arch": "ARM with soft floats"}, "its extension is for ARM with soft floats"),
        ({"libraries": frozenset({"libstdc++.so.6"})}, "it needs the library libstdc++.so.6"),
        ({"glibc": (2, 28)}, "it needs glibc 2.28"),
        ({"glibc": (2, 17, 1)}, "it needs glibc 2.17.1"),
        (
            {"exports": frozenset({"PyInit__core", "_Znwm"})},
            "its exports are not PyInit__core alone: _Znwm",
        ),
        ({"exports": frozenset()}, "its exports are not PyInit__core alone: PyInit__core"),
        ({"has_run_path": True}, "it looks for libraries in a path of its own"),
        ({"has_symbols": True}, "its extension is not stripped"),
    ],
)
def test_a_wrong_extension_is_told_by(change, problem):
    wrong = dataclasses.replace(EXTENSION, **change)
    assert check_wheel.extension_problems(wrong, "aarch64") == [problem]


@pytest.mark.parametrize("tag", ["manylinux_2_17_aarch64", "manylinux_2_5_aarch64"])
def test_auditwheel_may_find_an_older_platform_enough(tag):
    assert not check_wheel.platform_problems({**AUDIT, "overall_tag": tag}, "aarch64")


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (
            {**AUDIT, "overall_tag": "manylinux_2_18_aarch64"},
            "auditwheel: it is manylinux_2_18_aarch64",
        ),
        ({**AUDIT, "overall_tag": "linux_aarch64"}, "auditwheel: it is linux_aarch64"),
        (
            {**AUDIT, "overall_tag": "manylinux_2_17_armv7l"},
            "auditwheel: it is manylinux_2_17_armv7l",
        ),
        ({**AUDIT, "unsupported_isa": True}, "auditwheel: it asks for a newer CPU"),
        ({"error": "no ELF file"}, "auditwheel: no ELF file"),
    ],
)
def test_what_auditwheel_finds_wrong_is_told(report, problem):
    assert check_wheel.platform_problems(report, "aarch64") == [problem]


# --- Whole wheels ----------------------------------------------------------------------------------


def interpreters_own():
    """An extension of CPython itself: for this machine's glibc, another name, not ours."""
    return sorted(Path(sysconfig.get_config_var("DESTSHARED")).glob("_ctypes.*.so"))


@pytest.mark.skipif(
    not interpreters_own(), reason="this CPython has no extension in a file of its own"
)
def test_a_wheel_with_another_extension_under_our_name_is_refused_with_every_reason(
    tmp_path, capsys
):
    wheel = tmp_path / NAME.replace("aarch64", "armv7l")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("edgeface-0.1.0.dist-info/WHEEL", TAGS)
        archive.write(interpreters_own()[0], "edgeface/_core.cpython-311-arm-linux-gnueabihf.so")
    assert check_wheel.main([wheel]) == 1
    told = capsys.readouterr().out
    for reason in (
        f"{wheel.name}: WRONG",
        "its WHEEL file says cp311-cp311-manylinux2014_aarch64",
        "edgeface/__init__.py is missing",
        "its extension is for ",
        "it needs the library libffi.so",
        "its exports are not PyInit__core alone: PyInit__core, PyInit__ctypes",
        "auditwheel: ",
    ):
        assert reason in told


def test_a_wheel_without_the_extension_of_its_python_is_refused(tmp_path):
    wheel = tmp_path / NAME
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("edgeface-0.1.0.dist-info/WHEEL", TAGS)
        archive.writestr("edgeface/_core.cpython-310-aarch64-linux-gnu.so", b"")
    told = check_wheel.problems(wheel, ROOT)[-1]
    assert told.endswith("not edgeface/_core.cpython-311-aarch64-linux-gnu.so")


def test_no_wheel_at_all_is_a_failure():
    assert check_wheel.main([]) == 1


@pytest.mark.skipif(not WHEELS, reason="EDGEFACE_WHEELS does not name a folder of wheels")
@pytest.mark.parametrize("wheel", WHEELS, ids=lambda path: path.name)
def test_what_was_built_is_right(wheel):
    assert not check_wheel.problems(wheel, ROOT)
