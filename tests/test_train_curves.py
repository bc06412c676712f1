from __future__ import annotations

import csv
import functools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from edgeface.errors import DataError
from edgeface.train import curves

HEADER = (
    *("step", "epoch", "fraction", "seconds", "size", "rate", "total", "scores", "boxes"),
    *("landmarks", "taught_scores", "taught_boxes", "taught_features", "images_per_second"),
)


def row(step, size="160x120", **values):
    known = {"step": step, "seconds": step / 2, "size": size, "rate": 1e-3, "total": 90 / step}
    known.update(scores=50 / step, boxes=40 / step, images_per_second=30, **values)
    return [known.get(name, 0) for name in HEADER]


def write(path, rows, header=HEADER):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def log(tmp_path):
    """A run of two stages, 20 reports each."""
    sizes = ("160x120", "320x240")
    rows = [row(20 * (i + 1), sizes[i // 20]) for i in range(40)]
    return write(tmp_path / "run" / "log.csv", rows)


def test_log_is_read_as_it_was_written(log):
    run = curves.read_run([log])
    assert run.name == "run"
    assert_allclose(run.steps, 20.0 * np.arange(1, 41))
    assert_allclose(run.hours, run.steps / 2 / 3600)
    assert_allclose(run.values["total"], 90 / run.steps, rtol=1e-12)
    assert run.borders() == (20,)
    assert run.starts == ()


def test_folder_stands_for_the_log_in_it(log):
    assert_allclose(curves.read_run([log.parent]).steps, curves.read_run([log]).steps)


def test_continued_run_counts_on_where_the_first_log_ends(log, tmp_path):
    second = write(tmp_path / "second" / "log.csv", [row(20, "320x240"), row(40, "320x240")])
    run = curves.read_run([log, second])
    assert run.name == "second"
    assert run.steps[-3:].tolist() == [800, 820, 840]
    assert_allclose(run.hours[-1], 420 / 3600)
    assert run.starts == (40,)
    assert run.values["scores"][-1] == 50 / 40


def test_quantity_that_one_of_two_logs_lacks_is_left_out(log, tmp_path):
    older = [name for name in HEADER if name != "taught_features"]
    rows = [[value for name, value in zip(HEADER, row(20)) if name in older]]
    first = write(tmp_path / "older" / "log.csv", rows, older)
    assert "taught_features" not in curves.read_run([first, log]).values
    assert "taught_features" in curves.read_run([log]).values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it lacks step"),
        ("a,b\n1,2\n", "it lacks step"),
        (",".join(HEADER) + "\n", "nothing is logged yet"),
        (",".join(HEADER) + "\n1,2\n", "a row has not the 14 values"),
        (",".join(HEADER) + "\n" + ",".join(["x"] * 14) + "\n", "could not convert"),
        ("\x00\n", "log.csv"),
    ],
)
def test_no_log_is_refused_by_name(tmp_path, text, said):
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        curves.read_run([path])
    assert str(path) in str(caught.value)


def test_binary_file_is_refused_by_name(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(DataError, match=r"log\.csv"):
        curves.read_run([path])


@pytest.mark.parametrize(("count", "reach"), [(500, 7), (40, 2), (15, 0), (1, 0)])
def test_smoothed_is_the_mean_of_neighbours_and_of_fewer_at_the_ends(count, reach):
    values = np.random.default_rng(0).normal(size=count)
    parts = (values[max(0, i - reach) : i + reach + 1].tolist() for i in range(count))
    wanted = [math.fsum(part) / len(part) for part in parts]
    # Differences of sums of up to 500 terms.
    assert_allclose(curves.smoothed(values), wanted, rtol=0, atol=1e-12)


# --- The picture -------------------------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    figure = pytest.importorskip("matplotlib.figure", reason="Matplotlib is not installed")
    made = []

    class Kept(figure.Figure):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(curves, "figure_class", lambda: Kept)
    return made


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes}


def test_picture_has_a_panel_for_what_is_logged_and_none_for_what_is_zero(log, figures, tmp_path):
    curves.draw([curves.read_run([log])], tmp_path / "curves.png")
    shown = ("total", "scores", "boxes", "rate", "images_per_second")
    assert list(panels(figures[0])) == [curves.QUANTITIES[key] for key in shown]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_panels_show_two_runs_the_borders_of_stages_and_the_ends_of_logs(log, figures, tmp_path):
    second = write(tmp_path / "second" / "log.csv", [row(20, "320x240"), row(40, "320x240")])
    runs = [curves.read_run([log]), curves.read_run([log, second])]
    curves.draw(runs, tmp_path / "curves.png", axis="steps")
    axes = panels(figures[0])[curves.QUANTITIES["total"]]
    upright = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert [(line.get_xdata()[0], line.get_linestyle()) for line in upright] == [
        (420, "--"),
        (420, "--"),
        (820, ":"),
    ]
    assert [text.get_text() for text in axes.texts] == ["160x120", "320x240"] * 2
    logged = [line for line in axes.lines if line not in upright]
    assert [len(line.get_xdata()) for line in logged] == [40, 40, 42, 42]


def test_mean_does_not_reach_across_a_border(figures, tmp_path):
    rows = [row(20 * (i + 1), "1x1" if i < 20 else "2x2") for i in range(40)]
    for i, values in enumerate(rows):
        values[HEADER.index("total")] = 5 if i < 20 else 2
    run = curves.read_run([write(tmp_path / "run" / "log.csv", rows)])
    curves.draw([run], tmp_path / "curves.png")
    drawn = panels(figures[0])[curves.QUANTITIES["total"]].lines[-1].get_ydata()
    assert_allclose(drawn, [5] * 20 + [2] * 20, rtol=1e-12)


def test_losses_of_the_first_reports_do_not_set_the_scale(figures, tmp_path):
    rows = [row(20 * (i + 1)) for i in range(100)]
    for i, values in enumerate(rows):
        values[HEADER.index("total")] = 1000 if i < 3 else 2 - i / 100
    run = curves.read_run([write(tmp_path / "run" / "log.csv", rows)])
    curves.draw([run], tmp_path / "curves.png")
    low, high = panels(figures[0])[curves.QUANTITIES["total"]].get_ylim()
    assert 0.9 < low < 1.01
    assert 1.97 < high < 2.1


# --- The command -------------------------------------------------------------------------------------------


@pytest.fixture
def run(run_edgeface):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed")
    return functools.partial(run_edgeface, "train", "curves")


def test_command_draws_runs_side_by_side_and_tells_where_they_ended(log, run, tmp_path):
    other = write(tmp_path / "other" / "log.csv", [row(20)])
    target = tmp_path / "new" / "curves.png"
    status, out, _ = run(log.parent, log, "--beside", other, "-o", target)
    assert status == 0
    assert "run: 1600 steps in 0.22 hours; in the last report total 0.1125" in out
    assert "other: 20 steps" in out
    assert f"wrote {target}" in out
    assert target.read_bytes().startswith(b"\x89PNG")


def test_runs_of_one_name_are_told_apart_by_their_paths(run, tmp_path):
    logs = [write(tmp_path / name / "run" / "log.csv", [row(20)]) for name in "ab"]
    _, out, _ = run(logs[0], "--beside", logs[1], "-o", tmp_path / "curves.png")
    assert f"{logs[0].parent}: 20 steps" in out
    assert f"{logs[1].parent}: 20 steps" in out


@pytest.mark.parametrize("target", ["curves.svg", "curves"])
def test_command_refuses_another_kind_of_picture(log, run, tmp_path, target):
    status, _, error = run(log, "-o", tmp_path / target)
    assert (status, "expected a name that ends in .png" in error) == (2, True)


def test_command_names_the_log_that_is_not_there(run, tmp_path):
    status, _, error = run(tmp_path / "none.csv", "-o", tmp_path / "curves.png")
    assert (status, "none.csv: No such file" in error) == (2, True)
