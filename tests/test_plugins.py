from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import reference
from edgeface import BackendError, FaceDetector, backends
from edgeface import spec as specs
from edgeface.backends import plugins
from edgeface.formats import onnx

DOCUMENT = Path(__file__).parents[1] / "docs" / "backends.md"
BUILT_IN = ["native", "tengine", "torch", "onnxruntime"]


class Opened:
    """A backend that runs anything, and finds nothing."""

    def input(self):
        return np.zeros((1, 3, 64, 96), np.float32)


@pytest.fixture
def register(monkeypatch):
    """Makes modules of functions, and a table of backends that has them as plug-ins."""

    def add(**modules):
        entries = []
        for name, functions in modules.items():
            if functions is not None:
                module = types.ModuleType(f"plugin_{name}")
                vars(module).update(
                    {
                        "unavailable": lambda: None,
                        "open_graph": lambda *_: Opened(),
                        **functions,
                    }
                )
                monkeypatch.setitem(sys.modules, module.__name__, module)
            entries.append(EntryPoint(name, f"plugin_{name}", plugins.GROUP))
        monkeypatch.setattr(plugins, "_entries", lambda: entries)
        monkeypatch.setattr(backends, "BACKENDS", backends._Table())

    return add


@pytest.fixture
def alone(monkeypatch):
    """Without the built-in backends."""
    for module in backends._BUILT_IN:
        monkeypatch.setattr(module, "unavailable", lambda: "it is not here")


GRAPH = reference.detector_graph()


def test_plugins_follow_the_others_by_name(register):
    register(zebra={}, ape={})
    assert list(backends.BACKENDS) == [*BUILT_IN, "ape", "zebra"]
    assert len(backends.BACKENDS) == len(BUILT_IN) + 2
    runner, choice = backends.open_backend(GRAPH, "zebra", 1)
    assert isinstance(runner, Opened)
    assert choice.refused["ape"] == "zebra was asked for"


@pytest.mark.usefixtures("alone")
def test_auto_takes_them_after_the_others(register):
    register(zebra={}, ape={})
    _, choice = backends.open_backend(GRAPH, "auto", 1)
    assert str(choice) == "ape"
    assert choice.refused["native"] == "it is not here"
    assert choice.refused["zebra"] == "ape comes first and runs this network"


def test_nothing_is_imported_before_it_is_needed(register):
    register(broken=None)
    assert "broken" in backends.BACKENDS
    _, choice = backends.open_backend(GRAPH, "auto", 1)
    assert choice.refused["broken"] == "native comes first and runs this network"
    assert "plugin_broken" not in sys.modules


def test_one_that_cannot_be_imported_is_a_reason_against_it(register):
    register(broken=None)
    message = "the plug-in plugin_broken fails with ModuleNotFoundError: No module named"
    with pytest.raises(BackendError, match=message):
        backends.open_backend(GRAPH, "broken", 1)
    supports = {support.backend: support for support in backends.supporting(GRAPH)}
    assert supports["native"].refusal is None
    assert supports["broken"].refusal.startswith(message)


def fail(*_):
    raise ZeroDivisionError("oops")


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("function", ["unavailable", "open_graph"])
def test_one_that_fails_leaves_the_others_alone(register, function):
    register(ape={function: fail}, zebra={})
    _, choice = backends.open_backend(GRAPH, "auto", 1)
    assert str(choice) == "zebra"
    assert choice.refused["ape"] == "the plug-in plugin_ape fails with ZeroDivisionError: oops"


def test_its_own_refusal_comes_as_it_is(register):
    def refuse(*_):
        raise BackendError("it is Sunday")

    register(ape={"open_graph": refuse}, bee={"unavailable": lambda: "it has flown"})
    with pytest.raises(BackendError, match=r"ape: it is Sunday$"):
        backends.open_backend(GRAPH, "ape", 1)
    with pytest.raises(BackendError, match=r"bee: it has flown$"):
        backends.open_backend(GRAPH, "bee", 1)


@pytest.mark.usefixtures("alone")
def test_one_may_advise_against_itself(register):
    register(ape={"discouraged": lambda _: "it guesses"}, zebra={"discouraged": fail})
    _, choice = backends.open_backend(GRAPH, "auto", 1)
    assert str(choice) == "zebra"
    assert choice.refused["ape"] == "it guesses (it runs when asked for by name)"
    with pytest.warns(RuntimeWarning, match="the backend ape: it guesses"):
        backends.open_backend(GRAPH, "ape", 1)


def test_names_that_have_a_meaning_cannot_be_taken(register):
    register(native={"unavailable": fail}, auto={}, all={})
    assert list(backends.BACKENDS) == BUILT_IN
    assert backends.BACKENDS["native"] is backends.native


def test_a_name_that_is_there_twice_counts_once(monkeypatch):
    # The same package twice on the path, or two that chose one name.
    entries = [EntryPoint("ape", value, plugins.GROUP) for value in ("second", "first", "first")]
    monkeypatch.setattr(plugins, "_entries", lambda: entries)
    (found,) = plugins.registered()
    assert found._entry.value == "first"


def code(language):
    (block,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return block


def test_the_documented_example_detects_once_installed(tmp_path):
    site = tmp_path / "site"
    (site / "edgeface_numpy-1.0.dist-info").mkdir(parents=True)
    (site / "edgeface_numpy.py").write_text(code("python"))
    # What an installer makes of the pyproject.toml.
    group, entry = re.search(
        r'\[project\.entry-points\."(.*)"\]\n(.*)', code("toml").replace('= "', "= ")
    ).groups()
    written = {
        "METADATA": "Metadata-Version: 2.1\nName: edgeface-numpy\nVersion: 1.0\n",
        "entry_points.txt": f"[{group}]\n{entry.rstrip(chr(34))}\n",
    }
    for name, text in written.items():
        (site / "edgeface_numpy-1.0.dist-info" / name).write_text(text)
    graph = reference.detector_graph()
    model = tmp_path / "little.onnx"
    model.write_bytes(onnx.write(graph))
    model.with_suffix(".json").write_text(specs.to_json(reference.detector_spec(graph)))
    frame = reference.picture()
    np.save(tmp_path / "frame.npy", frame)
    program = """
import sys
import numpy as np
from edgeface import FaceDetector
detector = FaceDetector(sys.argv[1], backend="numpy")
print(detector.backend)
np.save(sys.argv[3], detector.detect(np.load(sys.argv[2])).rows)
"""
    paths = [model, tmp_path / "frame.npy", tmp_path / "rows.npy"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    child = subprocess.run(
        [sys.executable, "-c", program, *paths],
        capture_output=True,
        check=False,
        env=environment,
        text=True,
        timeout=60,
    )
    assert child.stdout == "numpy\n", child.stderr
    want = FaceDetector(model).detect(frame).rows
    assert len(want) > 3
    # Sums in another order: a few roundings of coordinates below 200.
    np.testing.assert_allclose(np.load(paths[2]), want, rtol=0, atol=0.01)
