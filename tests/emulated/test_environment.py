"""That packaging/emulate.py emulates what it says, and that its wheel is what runs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeface
from edgeface import _core, doctor

EMULATED = os.environ.get("EDGEFACE_EMULATED", "").split()
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not EMULATED, reason="no emulated machine: EDGEFACE_EMULATED does not say which one"
)


def test_the_machine_is_the_one_that_is_meant():
    assert platform.machine() == EMULATED[0]


def test_the_cpu_has_the_isas_that_it_has_to_have_and_no_other():
    assert _core.isas() == EMULATED[1:]


def test_the_wheel_is_tested_and_not_the_working_tree():
    assert ROOT / "src" not in Path(edgeface.__file__).parents
    assert Path(edgeface.__file__).parent == Path(_core.__file__).parent


def test_an_error_comes_through_the_linked_in_unwinder():
    for _ in range(3):
        with pytest.raises(edgeface.BackendError, match="no kernels for 'mmx'"):
            _core.Engine(
                doctor.native.lower(doctor.one_convolution(np.float32)), num_threads=1, isa="mmx"
            )


def test_a_child_process_runs_on_the_same_machine():
    told = subprocess.run(
        [sys.executable, "-c", "import platform; print(platform.machine())"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.split() == [EMULATED[0]]


def test_doctor_finds_every_isa_sound():
    found = doctor.examine()
    assert found["self_test"] == dict.fromkeys(EMULATED[1:], "ok")
    assert doctor.is_sound(found)
