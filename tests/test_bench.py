from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

import edgeface
from edgeface import bench


class Scripted:
    """A detector whose detects take the times that it is given, and find the faces that it is given."""

    def __init__(self, backend, rows, timings=(1.0, 2.0, 3.0)):
        self.backend = backend
        self.spec = types.SimpleNamespace(score_threshold=0.7)
        self.timings = timings
        self.rows = np.array(rows, np.float32).reshape(-1, 5)
        self.detects = 0

    def detect(self, frame):
        del frame
        self.detects += 1
        return edgeface.Faces(self.rows)


def test_statistics_are_percentiles_of_every_stage():
    rows = np.arange(1, 102, dtype=float)[:, None] * [1, 2, 3, 4]  # 1 .. 101 in the first column
    statistics = bench._statistics(rows)
    assert set(statistics) == set(bench.STAGES)
    # Between 101 values lie a hundred steps of a hundredth.
    assert statistics["preprocess"] == bench.Statistics(median=51, p95=96, p99=100, min=1)
    assert statistics["total"] == bench.Statistics(median=204, p95=384, p99=400, min=4)


def test_measure_gives_each_detector_its_own_stages():
    detectors = [Scripted("a", []), Scripted("b", [], timings=(4.0, 5.0, 6.0))]
    one, other = bench.measure(detectors, np.zeros((2, 2, 3), np.uint8), 25)
    assert [one[stage].median for stage in bench.STAGES[:3]] == [1, 2, 3]
    assert [other[stage].p99 for stage in bench.STAGES[:3]] == [4, 5, 6]
    # 25 that count, the warm-up, and one at the start of each of three turns.
    assert [detector.detects for detector in detectors] == [25 + bench.WARM_UP + 3] * 2


def test_agreement_names_the_backends_that_differ():
    face = (10, 10, 50, 50, 0.9)
    frame = np.zeros((2, 2, 3), np.uint8)
    same = bench.agreement([Scripted("a", [face]), Scripted("b", [face])], frame)
    assert same == bench.Agreement(faces=1, difference=None)
    found = bench.agreement(
        [Scripted("a", [face]), Scripted("b", [face]), Scripted("c", [])], frame
    )
    assert found.faces == 1
    assert found.difference.startswith("a and c differ: the second lacks the face at 10.0, 10.0")


@pytest.fixture
def system(tmp_path):
    files = {
        "class/thermal/thermal_zone0/temp": "48250\n",
        "class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "class/thermal/thermal_zone1/temp": "-500",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1296000\n",
        "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "devices/system/cpu/cpu10/cpufreq/scaling_cur_freq": "408000\n",
        "devices/system/cpu/cpu2/cpufreq/scaling_cur_freq": "600000\n",
        "devices/system/cpu/cpufreq/boost": "1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_conditions_are_read_in_the_order_of_the_cpus(system):
    found = bench.conditions(system)
    assert found.temperatures == {"0 cpu-thermal": 48.25, "1": -0.5}
    assert found.megahertz == (1296, 600, 408)
    assert found.governors == ("ondemand",)
    assert found.load >= 0


def test_conditions_are_empty_where_nothing_is_told(system, tmp_path):
    # A sensor that is switched off cannot be read.
    (system / "class/thermal/thermal_zone0/temp").unlink()
    assert bench.conditions(system).temperatures == {"1": -0.5}
    nothing = bench.conditions(tmp_path / "none")
    assert (nothing.temperatures, nothing.megahertz, nothing.governors) == ({}, (), ())


@pytest.mark.parametrize(
    ("after", "throttled"), [((1296, 1296), False), ((1296, 1200), False), ((1008, 1008), True)]
)
def test_the_heat_slowed_it_when_the_cpus_end_slower(after, throttled):
    before = bench.Conditions({"0 cpu": 60.0}, (1296, 1296), ("ondemand",) * 2, 1.0)
    found = bench.is_throttled(before, dataclasses.replace(before, megahertz=after))
    assert found is throttled
    unknown = dataclasses.replace(before, megahertz=())
    assert not bench.is_throttled(unknown, unknown)
