from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import edgeface
from edgeface import model, networks, zoo
from edgeface.cli import main
from edgeface.cli.train import load_data, with_data
from edgeface.errors import DataError, ModelError
from edgeface.faces import Faces

torch = pytest.importorskip("torch", reason="training needs PyTorch")
cv2 = pytest.importorskip("cv2", reason="training needs OpenCV")

from edgeface.train import checkpoint, export, judge, log, loop, loss, pictures, weights
from edgeface.train import config as configs
from edgeface.train.augment import Augmentation
from edgeface.train.batches import batches
from edgeface.train.config import Config, Distillation, Stage
from edgeface.train.learner import Learner
from edgeface.train.networks import make_network
from edgeface.train.optimizer import make_optimizer
from edgeface.train.priors import Targets
from edgeface.train.samples import open_archive, trainable
from edgeface.train.schedule import Progress, Schedule, learning_rate
from edgeface.train.start import fitted

CPU = torch.device("cpu")
SMALL = Config(
    name="small",
    network="slim",
    stages=(Stage((64, 48), epochs=2, batch=4, augmentation=Augmentation(mosaic_sides=(2,))),),
    optimizer="adamw",
    learning_rate=3e-3,
    held_out=0.0,
)


def changed(**values):
    return dataclasses.replace(SMALL, **values)


def stage(**values):
    return dataclasses.replace(SMALL.stages[0], **values)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Enough for images this small; several would wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder of ten images with light ellipses on noise, as `edgeface train prepare` writes them."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    lines = []
    for i in range(10):
        image = random.integers(0, 90, (96, 128, 3), dtype=np.uint8)
        x, y, size = (
            int(random.integers(low, high)) for low, high in ((10, 70), (5, 40), (24, 44))
        )
        centre = (x + size // 2, y + size // 2)
        cv2.ellipse(image, centre, (size // 2, size // 2), 0, 0, 360, (150, 190, 230), -1)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        points = [x + size * 0.3, y + size * 0.4, x + size * 0.7, y + size * 0.4]
        points += [centre[0], centre[1], x + size * 0.4, y + size * 0.7, x + size * 0.6]
        row = {"image": f"{i}.png", "width": 128, "height": 96, "boxes": [[x, y, size, size]]}
        lines.append(json.dumps({**row, "landmarks": [[*points, y + size * 0.7]]}))
    (folder / "annotations.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def samples(data):
    return trainable(open_archive(data))


@pytest.fixture(scope="session")
def images(samples):
    return pictures.decode_pictures(samples)


@pytest.fixture
def run(samples, images, tmp_path):
    """Trains, and gives the reports and the checkpoint."""

    def trained(config, folder="out", **options):
        output = tmp_path / folder
        output.mkdir(exist_ok=True)
        reports = list(loop.train(config, samples, images, output, device=CPU, **options))
        return reports, checkpoint.read(output / loop.CHECKPOINT)[1]

    return trained


def assert_same_state(one, other):
    assert one["progress"]["step"] == other["progress"]["step"]
    for name in ("network", "state_dict"):
        assert one[name].keys() == other[name].keys()
        for key in one[name]:
            assert torch.equal(one[name][key], other[name][key]), key


# --- Schedule ------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_follows_a_cosine_to_zero():
    config = changed(learning_rate=1.0, warm_up=0.1)
    rates = [learning_rate(config, fraction) for fraction in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < 0.02
    assert_allclose(rates[5], 0.01 + 0.99 * 0.5)
    assert_allclose([rates[10], rates[55], rates[100]], [1, 0.5, 0], atol=1e-12)
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()


def test_milestones_divide_the_rate_by_ten():
    config = changed(learning_rate=1.0, warm_up=0.0, schedule="milestones")
    rates = [learning_rate(config, epoch / 200) for epoch in (0, 94, 95, 149, 150, 199)]
    assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01])


STAGES = (stage(size=(32, 32), epochs=4, batch=2), stage(size=(64, 32), epochs=2, batch=5))


def test_stages_follow_each_other_by_their_steps():
    schedule = Schedule(changed(stages=STAGES), images=11)
    assert [schedule.steps(one) for one in STAGES] == [20, 4]  # of each epoch, one image is left
    at = [schedule.stage(Progress(step=step)) for step in range(24)]
    assert at == [STAGES[0]] * 20 + [STAGES[1]] * 4
    assert not schedule.is_done(Progress(step=23))
    assert schedule.is_done(Progress(step=24))
    fractions = [schedule.fraction(Progress(step=step)) for step in range(25)]
    # 40 images of 1024 pixels and 20 of 2048: each stage is half of the work.
    assert_allclose(fractions, [*np.linspace(0, 0.5, 21), 0.625, 0.75, 0.875, 1])


def test_hours_end_a_run_and_stages_share_them_by_their_work():
    schedule = Schedule(changed(stages=STAGES), images=11, hours=2)
    seconds = [0, 3599, 3601, 7199, 7200]
    at = [Progress(step=7, seconds=value) for value in seconds]
    assert_allclose([schedule.fraction(p) for p in at], np.array(seconds) / 7200)
    assert [schedule.stage(p) for p in at[:4]] == [STAGES[0]] * 2 + [STAGES[1]] * 2
    assert [schedule.is_done(p) for p in at] == [False] * 4 + [True]


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
def test_hours_in_which_no_run_could_end_are_refused(tmp_path, capsys, hours):
    with pytest.raises(ValueError, match=r"hours is .*; expected more than 0"):
        Schedule(SMALL, images=11, hours=float(hours))
    arguments = ["train", "run", "tiny", "--data", "gone", "-o", str(tmp_path)]
    with pytest.raises(SystemExit):
        main([*arguments, f"--hours={hours}"])
    assert (
        f"argument --hours: '{hours}' is not a number of hours above 0" in capsys.readouterr().err
    )


# --- Configs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", configs.bundled())
def test_bundled_runs_load_and_come_back_from_plain_values(name):
    config = configs.load(name)
    values = configs.to_dict(config)
    assert configs.from_dict(values) == config
    assert configs.from_dict(values) == config  # which took nothing out of them


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seed=3", lambda c: c.seed == 3),
        ("learning_rate=1", lambda c: c.learning_rate == 1.0),
        ("negatives=inf", lambda c: c.negatives == float("inf")),
        ("name=other", lambda c: c.name == "other"),
        ("landmarks=True", lambda c: c.landmarks is True),
        ("distillation.boxes=0", lambda c: c.distillation.boxes == 0),
        ("stages.0.batch=16", lambda c: c.stages[0].batch == 16),
        ("stages.0.epochs=0.5", lambda c: c.stages[0].epochs == 0.5),  # SMALL has the int 2 there
        ("stages.0.size.1=96", lambda c: c.size == (64, 96)),
        ("milestones.0=0", lambda c: c.milestones == (0.0, 150 / 200)),
        ("stages.0.augmentation.mosaic=0.5", lambda c: c.stages[0].augmentation.mosaic == 0.5),
        ("stages.0.size=(96,64)", lambda c: c.size == (96, 64)),
        ("milestones=(0, 0.5, 0.75)", lambda c: c.milestones == (0, 0.5, 0.75)),
        ("repeat={'wider': 2}", lambda c: c.repeat == {"wider": 2}),
    ],
)
def test_one_value_of_a_run_can_be_changed(text, found):
    config = configs.override(SMALL, text)
    assert found(config)
    assert config != SMALL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "KEY=VALUE"),
        ("seeds=3", "no 'seeds'"),
        ("stages.1.batch=3", "no 'stages.1.batch'"),
        ("distillation.box=3", "no 'distillation.box'"),
        ("seed=x", "expected int"),
        ("seed=1.5", "expected int"),
        ("landmarks=1", "expected bool"),
        ("kind=slim", "no 'kind'"),
        ("distillation=0", "distillation=0: expected Distillation"),
        ("network=yolo", "'yolo'; expected slim or rfb or retinaface-mobilenet0.25 or"),
        ("optimizer=lion", "expected sgd or adamw or muon"),
        ("stages=()", "stages is empty"),
        ("stages=(1,)", r"stages=\(1,\): expected tuple\[Stage, \.\.\.\]"),
        ("stages.0.size=(96,)", r"expected tuple\[int, int\]"),
        ("stages.0.size=(96, 64.5)", r"expected tuple\[int, int\]"),
        ("milestones=(0.5, 'x')", r"expected tuple\[float, \.\.\.\]"),
        ("repeat={'wider': 'often'}", r"expected dict\[str, int\]"),
        ("stages.0.batch=0", "a stage needs"),
        ("held_out=1.0", "held_out is 1.0; expected 0 to below 1"),
        ("warm_up=1", "warm_up is 1.0; expected 0 to below 1"),
        ("ema=1", "ema is 1.0; expected 0 to below 1"),
        ("ema=nan", "ema is nan"),
        ("learning_rate=0", "learning_rate is 0.0; expected more than 0"),
        ("learning_rate=inf", "learning_rate is inf"),
        ("clip=0", "clip is 0.0; expected more than 0"),
    ],
)
def test_a_wrong_change_is_refused_with_what_is_expected(text, message):
    with pytest.raises(ValueError, match=message):
        configs.override(SMALL, text)


def test_a_file_without_a_config_is_refused_by_its_name(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ValueError, match=r"empty\.py: expected `config"):
        configs.load(str(tmp_path / "empty.py"))
    with pytest.raises(ValueError, match=r"nowhere\.py: no such file, and bundled are .*tiny"):
        configs.load("nowhere.py")


# --- The loop ------------------------------------------------------------------------------------------


LONGER = changed(stages=(stage(epochs=30, batch=5),))


@pytest.fixture(scope="session")
def longer(samples, images, tmp_path_factory):
    """60 steps: the reports, and where they were written to."""
    output = tmp_path_factory.mktemp("longer")
    return list(loop.train(LONGER, samples, images, output, device=CPU)), output


def test_the_loss_falls(longer):
    reports, output = longer
    assert [report.step for report in reports] == [20, 40, 60]
    assert reports[-1].total < 0.9 * reports[0].total
    assert reports[-1].fraction == 1
    with (output / loop.LOG).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["total"]) for row in rows] == pytest.approx([r.total for r in reports], 1e-5)


def test_a_student_comes_closer_to_its_teacher(run, longer):
    teacher = weights.open_teacher(longer[1] / loop.CHECKPOINT)
    config = dataclasses.replace(LONGER, seed=1, distillation=Distillation(features=1.0))
    reports, _ = run(config, teacher=teacher)
    assert reports[-1].taught_scores < 0.7 * reports[0].taught_scores
    assert reports[-1].taught_boxes < 0.7 * reports[0].taught_boxes
    assert reports[-1].taught_features < 0.7 * reports[0].taught_features


NARROW, WIDE = "retinaface-mobilenet0.25", "retinaface-resnet50"  # 64 and 256 channels before heads


def test_teacher_of_other_features_is_refused_where_they_count_and_not_where_not():
    teacher = Learner(changed(network=WIDE), CPU).network.eval().requires_grad_(False)
    counted = changed(network=NARROW, distillation=Distillation(features=0.5))
    with pytest.raises(ValueError, match=r"features is 0\.5, .*\(64, 8, 8\).*\(256, 8, 8\)"):
        Learner(counted, CPU, teacher=teacher)
    learner = Learner(changed(network=NARROW), CPU, teacher=teacher)
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 64))).float()
    count = teacher(image).scores.shape[1]
    nothing = torch.zeros(2, count)
    targets = Targets(nothing.long(), torch.zeros(2, count, 4), nothing, nothing.bool())
    taught = learner.step(image, targets, 1e-3).taught
    assert taught.features == 0 < taught.scores


def test_looking_at_features_changes_no_weights_and_no_mode():
    teacher = Learner(changed(seed=1), CPU).network
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    learner = Learner(changed(distillation=Distillation(features=1.0)), CPU, teacher=teacher)
    plain = Learner(SMALL, CPU).network.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(
        torch.equal(value, plain[key]) for key, value in learner.network.state_dict().items()
    )
    assert learner.network.training


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("rfb320", r"features is 4\.0, .* set distillation\.features=0\.0 to"),
        ("rfb640", r"scores is 2\.0, .* set distillation\.scores=0\.0 to"),
        ("slim320_continued", r"mirror is True, .* and distillation\.mirror=False to"),
    ],
)
def test_a_run_that_counts_on_a_teacher_is_refused_without_one(samples, tmp_path, name, wanted):
    config = dataclasses.replace(configs.load(name), repeat={})  # whose key these images lack
    network = make_network(config.network, landmarks=False)  # to begin with
    with pytest.raises(ValueError, match=wanted):
        loop.check(config, samples, tmp_path, start=network)
    loop.check(config, samples, tmp_path, start=network, teacher=network)


@pytest.mark.parametrize("change", ["features=0.0", "scores=0", "temperature=2.0"])
def test_a_run_that_follows_nobody_needs_no_teacher(samples, tmp_path, change):
    loop.check(configs.override(SMALL, f"distillation.{change}"), samples, tmp_path)


def test_an_earlier_run_that_did_without_its_teacher_goes_on_without(run, tmp_path):
    _, state = run(SMALL)
    del state["origin"]
    config = changed(distillation=Distillation(features=4.0))
    checkpoint.write(
        tmp_path / "out" / loop.CHECKPOINT, {**state, "config": configs.to_dict(config)}
    )
    run(configs.override(config, "distillation.features=0"), resume=True)


def test_landmarks_are_learnt_where_the_run_has_them(run):
    reports, state = run(changed(landmarks=True))
    assert reports[-1].landmarks > 0
    assert "landm.3.weight" in state["state_dict"]


RETINAFACE = changed(
    network="retinaface-mobilenet0.25",
    landmarks=True,
    stages=(stage(epochs=20, batch=5),),
    learning_rate=5e-3,
)


@pytest.fixture(scope="session")
def retinaface(samples, images, tmp_path_factory):
    """40 steps of it: the reports, and where they were written to."""
    output = tmp_path_factory.mktemp("retinaface")
    return list(loop.train(RETINAFACE, samples, images, output, device=CPU)), output


def test_retinaface_learns_in_the_same_loop(retinaface):
    (first, last), output = retinaface
    before = Learner(RETINAFACE, CPU).network.state_dict()
    after = checkpoint.read(output / loop.CHECKPOINT)[1]["network"]
    assert last.total < 0.9 * first.total
    assert 0 < last.landmarks < first.landmarks
    left = {key for key, value in before.items() if torch.equal(value, after[key])}
    # But for these nothing is left out: the images are too small for faces of the coarser levels.
    assert all(key.startswith(("BboxHead.", "LandmarkHead.")) and ".0." not in key for key in left)


def test_retinaface_is_exported_with_its_landmarks(retinaface, tmp_path):
    _, output = retinaface
    target = tmp_path / "net.onnx"
    written, differences = export.export(output / loop.CHECKPOINT, target)
    assert differences.keys() == {export.NOISE}
    assert written.source.spec.priors.strides == (8, 16, 32)
    detector = edgeface.FaceDetector(target, score_threshold=0.0)
    faces = detector.detect(np.zeros((48, 64, 3), np.uint8))
    assert faces.landmarks.shape == (len(faces), 5, 2)
    assert len(faces) > 0


def test_a_runs_spec_is_that_of_its_family():
    for config, family in ((SMALL, zoo.ultraface), (RETINAFACE, zoo.retinaface)):
        network = Learner(config, CPU).network
        spec = export.spec_of(config, network)
        wanted = family(networks.build(weights.arrays_of(network.state_dict()), config.size))
        assert (spec.input, spec.priors) == (wanted.input, wanted.priors)
        assert (spec.heads.landmarks is not None) == config.landmarks


def test_weights_for_relus_of_another_slope_are_none_to_begin_with(run):
    state = Learner(RETINAFACE, CPU).network.state_dict()
    with pytest.raises(ValueError, match=r"of slope 0\.0; a run has 0\.1"):
        run(RETINAFACE, start=weights.network_of(state, slope=0.0))


def test_a_teacher_with_other_priors_is_refused(longer, run):
    teacher = weights.open_teacher(longer[1] / loop.CHECKPOINT)
    with pytest.raises(ValueError, match=r"other priors than a retinaface-mobilenet0\.25 network"):
        run(RETINAFACE, teacher=teacher)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_can_be_repeated(run, precision):
    config = changed(precision=precision)
    assert_same_state(run(config, "one")[1], run(config, "two")[1])


@pytest.mark.slow
def test_batches_planned_by_other_processes_are_the_same(run):
    assert_same_state(run(SMALL, "one")[1], run(changed(workers=2), "two")[1])


class StoppedError(Exception):
    pass


def stopped(run, config, monkeypatch, writes):
    """The same run, killed when it has written so many checkpoints."""
    write, count = checkpoint.write, itertools.count(1)

    def once_more(path, state):
        write(path, state)
        if next(count) == writes:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", once_more)
        with pytest.raises(StoppedError):
            run(config, "stopped")


@pytest.mark.parametrize(
    ("minutes", "writes"), [(1e9, 1), (0.0, 3)], ids=["after an epoch", "inside an epoch"]
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_resuming_gives_the_same_bits_as_not_stopping(
    run, monkeypatch, tmp_path, minutes, writes, optimizer
):
    stages = (stage(epochs=2), stage(size=(96, 64), epochs=1, batch=3))
    config = changed(stages=stages, optimizer=optimizer, checkpoint_minutes=minutes)
    whole = run(config, "whole")[1]
    stopped(run, config, monkeypatch, writes)
    at = checkpoint.read(tmp_path / "stopped" / loop.CHECKPOINT)[1]["progress"]
    assert 0 < at["step"] < whole["progress"]["step"]
    assert (at["offset"] == 8) == (minutes > 0)
    assert_same_state(run(config, "stopped", resume=True)[1], whole)


def test_resuming_drops_rows_of_the_log_that_will_come_again(run, tmp_path):
    run(SMALL)
    path = tmp_path / "out" / loop.LOG
    with path.open("a", newline="") as file:
        csv.writer(file).writerow([99] + [0] * (len(dataclasses.fields(log.Report)) - 1))
    run(SMALL, resume=True)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4"]


def test_a_checkpoint_of_another_run_is_not_resumed_from(run):
    run(SMALL)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is of another config \(seed\)"):
        run(changed(seed=1), resume=True)


def test_a_run_does_not_go_on_with_other_images_or_another_teacher(
    run, longer, samples, images, tmp_path
):
    teacher = weights.open_teacher(longer[1] / loop.CHECKPOINT)
    other = Learner(changed(seed=5), CPU).network.eval().requires_grad_(False)
    run(SMALL, "taught", teacher=teacher)
    run(SMALL, "untaught")
    renamed = [dataclasses.replace(one, name=f"{one.name}.png") for one in samples]
    for folder, found, given, message in (
        ("taught", samples, None, "no teacher"),
        ("taught", samples, other, "another teacher"),
        ("untaught", samples, other, "a teacher"),
        ("untaught", samples[:8], None, "8 images an epoch instead of 10"),
        ("untaught", renamed, None, "other images"),
        ("untaught", samples[::-1], other, "other images and a teacher"),
    ):
        output = tmp_path / folder
        options = {"device": CPU, "teacher": given, "resume": True}
        with pytest.raises(ValueError, match=rf"checkpoint\.pt .* would be {message};"):
            list(loop.train(SMALL, found, images, output, **options))
    moved = [dataclasses.replace(one, name=f"/else/{Path(one.name).name}") for one in samples]
    loop.check(SMALL, moved, tmp_path / "taught", teacher=teacher, resume=True)


def test_a_checkpoint_that_does_not_say_what_it_learnt_from_is_resumed_from(run, tmp_path):
    _, state = run(SMALL)
    del state["origin"]
    config, _ = checkpoint.read(tmp_path / "out" / loop.CHECKPOINT)
    state["config"] = configs.to_dict(config)
    checkpoint.write(tmp_path / "out" / loop.CHECKPOINT, state)
    run(SMALL, resume=True)


def test_a_loss_that_is_not_finite_names_some_images_where_none_is_to_blame(run):
    only_mosaics = stage(epochs=5, augmentation=Augmentation(mosaic=1.0, mosaic_sides=(3,)))
    config = changed(learning_rate=1e30, stages=(only_mosaics,))
    with pytest.raises(DataError, match=r"the loss is nan.*no image's labels") as error:
        run(config)
    assert str(error.value).count(".png") == 5
    assert str(error.value).endswith("5 more")


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_a_loss_without_end_names_the_images_of_those_inputs_alone(
    samples, images, tmp_path, mosaic
):
    points = np.full_like(samples[3].landmarks, 3e38)
    bad = [*samples[:3], dataclasses.replace(samples[3], landmarks=points), *samples[4:]]
    augmentation = Augmentation(mosaic=mosaic, mosaic_sides=(2,), expand=0, crop=0)
    config = changed(landmarks=True, stages=(stage(batch=10, augmentation=augmentation),))
    with pytest.raises(
        DataError, match=r"the loss is (inf|nan) whatever the network says"
    ) as error:
        list(loop.train(config, bad, images, tmp_path, device=CPU))
    named = str(error.value)[str(error.value).index("labels of") :]
    assert "/3.png" in named
    if mosaic == 0:
        assert named.count(".png") == 1


def test_landmarks_that_are_not_learnt_are_not_to_blame():
    nothing = torch.zeros(2, 3)
    targets = Targets(
        nothing.long(), torch.zeros(2, 3, 4), torch.full((2, 3, 10), 3e38), ~nothing.bool()
    )
    assert loss.endless(targets, landmarks=False) == []
    assert loss.endless(targets, landmarks=True) == [0, 1]


def test_weights_that_are_not_finite_leave_the_good_checkpoint(run, tmp_path, monkeypatch):
    config = changed(stages=(stage(epochs=2, batch=10),), warm_up=0.0)
    rates = iter([1e-3, float("inf")])
    monkeypatch.setattr(loop, "learning_rate", lambda *_: next(rates))
    with pytest.raises(
        DataError, match=r"after step 2 the weights .*checkpoint\.pt is not written"
    ):
        run(config)
    _, state = checkpoint.read(tmp_path / "out" / loop.CHECKPOINT)
    assert state["progress"]["step"] == 1
    assert all(value.isfinite().all() for value in state["network"].values())


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(run, monkeypatch):
    clip, count = torch.nn.utils.clip_grad_norm_, itertools.count(1)

    def broken(parameters, most):
        parameters = list(parameters)
        if next(count) == 2:
            parameters[0].grad[0] = float("inf")
        return clip(parameters, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", broken)
    with pytest.raises(DataError, match=r"the gradient's norm is inf"):
        run(changed(stages=(stage(epochs=5),)))


def test_images_are_repeated_by_their_names(samples):
    order = loop.Order(samples, changed(repeat={"/3.png": 4, "/4.png": 2}))
    assert len(order) == 10 + 3 + 1
    epoch = order.epoch(0)
    assert [int((epoch == i).sum()) for i in range(10)] == [1, 1, 1, 4, 2, 1, 1, 1, 1, 1]
    assert not np.array_equal(epoch, order.epoch(1))
    assert_array_equal(epoch, order.epoch(0))


def test_a_key_of_repeat_that_is_in_no_images_name_is_told(samples, tmp_path):
    with pytest.warns(UserWarning, match="repeat has 'wider', which no image's name has"):
        loop.check(changed(repeat={"/3.png": 4, "wider": 2}), samples, tmp_path)


def test_mosaics_too_take_repeated_images_more_often(samples):
    sides = stage(augmentation=Augmentation(mosaic=1.0, mosaic_sides=(2,)))
    config = changed(repeat={"/3.png": 91}, stages=(sides,))
    order = loop.Order(samples, config)
    priors = export.spec_of(config, make_network("slim", landmarks=False)).priors
    made = itertools.islice(batches(order, sides, Progress(), config, priors), 10)
    plans = [plan for _, batch, _ in made for plan in batch]
    others = [part.index for plan in plans for part in plan.parts]
    # 91 of 100 draws, of 40 whole images and of 120 others: within five deviations (.0226).
    assert others.count(3) / len(others) > 0.79


def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch):
    now = itertools.accumulate([0.0, 60.0] + [1.0] * 20 + [3600.0] + [1.0] * 5)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = log.Clock()
    counted = [clock.tick() for _ in range(27)]
    # The first step compiles; the interrupted one counts as five.
    assert counted == [0.0] + [1.0] * 20 + [5.0] + [1.0] * 5


def test_muon_moves_every_direction_of_what_mixes_channels_and_adamw_the_rest():
    torch.manual_seed(0)
    pointwise, dense = torch.nn.Conv2d(8, 12, 1), torch.nn.Conv2d(12, 16, 3)
    depthwise = torch.nn.Conv2d(16, 16, 3, groups=16)
    network = torch.nn.Sequential(pointwise, dense, depthwise).to(memory_format=torch.channels_last)
    before = [p.detach().clone() for p in network.parameters()]
    config = changed(optimizer="muon", learning_rate=0.01, weight_decay=0.0)
    optimizer = make_optimizer(config, network)
    network(torch.randn(4, 8, 9, 9)).square().mean().backward()
    optimizer.step()
    moves = [p.detach() - old for p, old in zip(network.parameters(), before)]
    for weight, move in ((pointwise.weight, moves[0]), (dense.weight, moves[2])):
        values = torch.linalg.svdvals(move.flatten(1) / 0.01)
        # Newton and Schulz's iteration leaves singular values between 0.7 and 1.2; AdamW's size is a root of 0.2.
        usual = 0.2 * max(weight.flatten(1).shape) ** 0.5
        assert values.min() > 0.6 * usual
        assert values.max() < 1.3 * usual
    for move in (moves[1], *moves[3:]):
        assert_allclose(move.abs().numpy(), 0.01, rtol=0.01)  # the first step of Adam
    optimizer.zero_grad()
    assert all(p.grad is None for p in network.parameters())
    make_optimizer(config, depthwise)  # nothing of it mixes channels


def test_the_average_follows_the_weights():
    learner = Learner(changed(ema=0.0), CPU)
    parameter = next(iter(learner.network.parameters()))
    with torch.no_grad():
        parameter += 1
    learner._follow()
    assert torch.equal(next(iter(learner.average.parameters())), parameter)


def test_a_run_begins_with_the_weights_that_it_is_given(longer, run):
    start = weights.open_network(longer[1] / loop.CHECKPOINT)
    learner = Learner(SMALL, CPU, start=start)
    assert all(
        torch.equal(v, start.state_dict()[k]) for k, v in learner.network.state_dict().items()
    )
    reports, _ = run(SMALL, start=start)
    assert reports[-1].boxes < longer[0][0].boxes
    with pytest.raises(ValueError, match="another network than slim with landmarks"):
        Learner(changed(landmarks=True), CPU, start=start)


def test_what_does_not_learn_stays_as_it_began(longer, run):
    config = dataclasses.replace(
        LONGER, landmarks=True, learns="landm.", landmark_weight=1.0, seed=7
    )
    start, _ = fitted(weights.open_network(longer[1] / loop.CHECKPOINT), config)
    reports, state = run(config, start=start)
    assert reports[-1].landmarks < reports[0].landmarks
    before = start.state_dict()
    for weights_of in (state["network"], state["state_dict"]):
        learnt = {key for key, value in weights_of.items() if not torch.equal(value, before[key])}
        assert learnt == {key for key in before if key.startswith("landm.")}


def test_without_statistics_of_batches_norms_keep_what_they_have_seen_and_learn(longer, run):
    start = weights.open_network(longer[1] / loop.CHECKPOINT)
    _, state = run(changed(batch_statistics=False, learning_rate=1e-4), start=start)
    before = start.state_dict()
    moved = {key for key, value in state["network"].items() if not torch.equal(value, before[key])}
    assert {"base_net.0.0.weight", "base_net.0.1.weight", "base_net.0.1.bias"} <= moved
    assert not [key for key in moved if "running" in key or "num_batches" in key]


@pytest.mark.parametrize("values", [{"batch_statistics": False}, {"learns": "base_net."}])
def test_what_keeps_parts_as_they_are_does_not_begin_with_random_weights(run, values):
    with pytest.raises(ValueError, match=f"{next(iter(values))} is .* begins with random weights"):
        run(changed(**values))


def test_a_name_of_nothing_cannot_learn():
    with pytest.raises(ValueError, match=r"learns is 'landm\.', and no array"):
        Learner(changed(learns="landm."), CPU)


# --- Export --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tmfile", ".onnx"])
@pytest.mark.parametrize(("network", "landmarks"), [("slim", True), ("rfb", False)])
def test_an_exported_model_computes_what_pytorch_does(run, tmp_path, suffix, network, landmarks):
    config = changed(network=network, landmarks=landmarks, training_data="ellipses")
    run(config)
    frame = np.zeros((50, 60, 3), np.uint8)
    target = tmp_path / f"small{suffix}"
    source = tmp_path / "out" / loop.CHECKPOINT
    written, found = export.export(source, target, frames={"black": frame})
    assert written.bytes == target.stat().st_size
    assert found.keys() == {"noise", "black"}
    assert max(found.values()) < 1e-4
    spec = model.load(target).spec
    assert (spec.name, spec.training_data) == ("small", "ellipses")
    assert (spec.input.width, spec.input.height) == (64, 48)
    faces = edgeface.FaceDetector(target, score_threshold=0.0).detect(frame)
    assert (faces.landmarks is not None) == landmarks


def test_a_model_compared_on_noise_alone_is_said_to_be(longer, data, tmp_path, capsys):
    source, photo = str(longer[1] / loop.CHECKPOINT), str(data / "0.png")
    for images, said in ((["--images", photo], 0), ([], 1)):
        target = tmp_path / f"{said}.tmfile"
        assert main(["train", "export", source, str(target), *images]) == 0
        text = capsys.readouterr().out
        assert text.count("compared with PyTorch on noise alone") == said
        assert text.count("differs from PyTorch by") == 2 - said


def test_a_model_that_differs_from_pytorch_is_not_written(longer, tmp_path, monkeypatch):
    real = export.network_of

    def shifted(state):
        network = real(state)
        with torch.no_grad():
            next(network.parameters()).mul_(1.2)
        return network

    monkeypatch.setattr(export, "network_of", shifted)
    with pytest.raises(ModelError, match=r"small\.onnx is not written: it differs .* on noise"):
        export.export(longer[1] / loop.CHECKPOINT, tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_checkpoint_is_refused_by_its_name(tmp_path, content):
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"bad\.pt: no checkpoint .*: it is damaged, or something else$"
    ):
        checkpoint.read(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "there is no config in it"),
        (torch.zeros(2), "there is no config in it"),
        ({"weight": torch.zeros(2)}, "there is no config in it"),
        ({"config": {"name": "x"}}, "its config does not fit: 'stages'"),
        ({"config": Path}, "it is damaged, or something else"),  # code would run
    ],
    ids=["list", "tensor", "weights", "config", "code"],
)
def test_what_pytorch_reads_and_no_run_wrote_is_refused_by_what_is_missing(
    tmp_path, content, message
):
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match=rf"bad\.pt: no checkpoint .*: {message}$"):
        checkpoint.read(tmp_path / "bad.pt")


def test_weights_without_a_run_are_nothing_to_resume_from(run, samples, tmp_path):
    _, state = run(SMALL)
    kept = {key: state[key] for key in ("config", "origin", "state_dict", "network", "steps")}
    torch.save(kept, tmp_path / loop.CHECKPOINT)
    with pytest.raises(
        ModelError, match=r"checkpoint\.pt: .*: there is no optimizer and no progress in it"
    ):
        loop.check(SMALL, samples, tmp_path, resume=True)


def test_an_optimizer_that_this_pytorch_lacks_is_refused_before_images_are_read(
    samples, tmp_path, monkeypatch
):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match=r"muon needs PyTorch 2\.9 or later"):
        loop.check(configs.override(SMALL, "optimizer=muon"), samples, tmp_path)


def test_a_checkpoint_is_a_model_and_a_teacher_too(run, tmp_path):
    _, state = run(SMALL)
    source = tmp_path / "out" / loop.CHECKPOINT
    assert model.read_graph(source)[1].outputs == ("scores", "boxes")
    teacher = weights.open_teacher(source)
    assert torch.equal(
        teacher.state_dict()["extras.0.0.bias"], state["state_dict"]["extras.0.0.bias"]
    )


# --- Held out ------------------------------------------------------------------------------------------


def test_the_same_images_are_held_out_wherever_they_lie(samples):
    many = [dataclasses.replace(samples[0], name=f"here/{i}.webp") for i in range(2000)]
    kept, held_out = judge.split(many, 0.1)
    assert len(kept) + len(held_out) == 2000
    assert 140 < len(held_out) < 260  # 4.5 standard deviations of a binomial
    moved = [dataclasses.replace(s, name=s.name.replace("here", "there")) for s in many]
    assert [s.name[6:] for s in judge.split(moved, 0.1)[1]] == [s.name[5:] for s in held_out]


class Stub:
    """Finds given rows in every image."""

    def __init__(self, rows):
        self.rows = np.float32(rows).reshape(-1, 5)

    def detect(self, _):
        return Faces(self.rows)


def test_average_precision_on_held_out_images(samples):
    box = samples[0].boxes[0]
    right, wrong = [*box, 0.9], [0, 0, 5, 5, 0.8]
    assert judge.average_precision(Stub([right, wrong]), samples[:1]) == 1
    assert judge.average_precision(Stub([]), samples[:1]) == 0
    assert judge.average_precision(Stub([[*right[:4], 0.7], wrong][::-1]), samples[:1]) == 0.5
    assert judge.average_precision(Stub([]), []) is None


# --- The commands --------------------------------------------------------------------------------------


def test_a_run_ends_with_a_model_that_opens_whatever_format_holds_it(data, tmp_path, capsys):
    config = tmp_path / "run.py"
    config.write_text(
        "from edgeface.train.config import Config, Stage\n"
        "stages = (Stage((64, 48), epochs=1, batch=5),)\n"
        "config = Config('mine', 'retinaface-mobilenet0.25', stages, landmarks=True, held_out=0.3)\n"
    )
    output = tmp_path / "out"
    assert main(["train", "run", str(config), "--data", str(data), "-o", str(output)]) == 0
    (found,) = [path for path in output.iterdir() if path.suffix in (".tmfile", ".onnx")]
    said = capsys.readouterr().out
    assert f"wrote {found}" in said
    assert ("as .onnx instead: " in said) == (found.suffix == ".onnx")
    spec = edgeface.FaceDetector(found).spec
    assert (spec.heads.landmarks, spec.training_data) == ("landmarks", data.name)


def test_a_run_says_what_it_read_where_its_config_does_not(data):
    paths = [data / ".", Path("train-a.tar"), Path("elsewhere/train-a.tar")]
    assert with_data(SMALL, paths).training_data == f"{data.name}, train-a.tar"
    assert with_data(changed(training_data="ellipses"), paths).training_data == "ellipses"


@pytest.mark.parametrize("name", configs.bundled())
def test_bundled_runs_do_not_say_what_they_cannot_know(name):
    assert configs.load(name).training_data == ""


def test_a_run_goes_on_whatever_is_said_of_its_images(run):
    run(changed(training_data="ellipses"))
    run(changed(training_data="data"), resume=True)


def test_run_and_export_on_the_command_line(data, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["train", "run", "tiny", "--data", str(data), "-o", str(output)]
    changes = ["stages.0.size=(64,48)", "stages.0.epochs=1", "stages.0.batch=4", "held_out=0.3"]
    options = [part for change in changes for part in ("--set", change)]
    assert main([*arguments, *options, "--num-threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "100% step" in text
    assert f"wrote {output / 'tiny.tmfile'}" in text
    _, held_out = judge.split(trainable(open_archive(data)), 0.3)
    with edgeface.FaceDetector(output / "tiny.tmfile", **judge.DETECTOR_OPTIONS) as detector:
        ap = judge.average_precision(detector, held_out)
    assert f"AP {ap:.3f} on the {len(held_out)} images held out" in text
    assert {path.name for path in output.iterdir()} == {
        "checkpoint.pt",
        "log.csv",
        "tiny.tmfile",
        "tiny.json",
    }
    assert main(["train", "run", "tiny", "--data", str(data), "-o", str(output)]) == 2
    assert "checkpoint.pt: exists; --resume goes on from it" in capsys.readouterr().err
    target = tmp_path / "net.onnx"
    photo = str(data / "0.png")
    arguments = ["train", "export", str(output / "checkpoint.pt"), str(target), "--images", photo]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"{photo}: differs from PyTorch by " in text
    assert f"spec inside {target}" in text
    assert main(arguments) == 2  # it is there
    assert "--force" in capsys.readouterr().err


def test_data_without_an_image_are_refused_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "annotations.jsonl").touch()
    output = tmp_path / "out"
    assert main(["train", "run", "tiny", "--data", str(tmp_path / "empty"), "-o", str(output)]) == 2
    assert "edgeface: error: there is no image to learn from\n" in capsys.readouterr().err
    assert not output.exists()
    with pytest.raises(ValueError, match="no image to learn from"):
        loop.Order([], SMALL)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "3.png").write_bytes(b"no picture"), "3.png: damaged"),
        (
            lambda folder: (folder / "annotations.jsonl").write_text("{"),
            "annotations.jsonl line 1: not JSON",
        ),
    ],
    ids=["image", "label"],
)
def test_damaged_data_stop_a_run_with_their_place_and_how_to_skip_them(
    data, tmp_path, capsys, damage, message
):
    shutil.copytree(data, tmp_path / "data")
    damage(tmp_path / "data")
    output = tmp_path / "out"
    assert main(["train", "run", "tiny", "--data", str(tmp_path / "data"), "-o", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith("`edgeface train prepare --on-error skip` leaves it out\n")
    assert not (output / loop.CHECKPOINT).exists()


@pytest.mark.parametrize("path", ["", "label.txt"])
def test_data_that_are_not_prepared_are_refused_with_what_prepares_them(tmp_path, path):
    (tmp_path / "label.txt").write_text("# a.jpg\n1 2 3 4\n")
    with pytest.raises(
        DataError, match=r"a data set of the form label; .* `edgeface train prepare /"
    ):
        load_data([tmp_path / path], None)


def test_data_of_no_known_form_are_refused_by_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"no annotations\.jsonl in it"):
        load_data([tmp_path], None)
    with pytest.raises(DataError, match=r"gone\.json: No such file"):
        load_data([tmp_path / "gone.json"], None)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_data_are_read(tmp_path, capsys, device):
    arguments = ["train", "run", "tiny", "--data", str(tmp_path / "gone"), "-o", str(tmp_path)]
    assert main([*arguments, "--device", device]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot use the device '{device}': " in line


def test_a_missing_tensorboard_is_told_before_images_are_decoded(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(pictures, "decode_pictures", None)
    arguments = ["train", "run", "tiny", "--data", str(data), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--tensorboard"]) == 2
    assert "need tensorboard (import of torch" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")  # of packages that are not ours
def test_tensorboard_shows_what_was_reported_and_nothing_that_a_resumed_run_dropped(tmp_path):
    reading = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard"
    )
    fields = [f.name for f in dataclasses.fields(log.Report)]
    report = log.Report(**{**dict.fromkeys(fields, 0.5), "epoch": 0, "size": "64x48"})
    for begun, steps in ((0, (20, 40, 60)), (30, (50, 70))):
        made = [dataclasses.replace(report, step=step, total=float(begun)) for step in steps]
        assert list(log.recorder(tmp_path, begun)(made)) == made
    events = reading.EventAccumulator(str(tmp_path)).Reload()
    assert {"total", "scores", "rate"} <= set(events.Tags()["scalars"])
    assert [(one.step, one.value) for one in events.Scalars("total")] == [
        (20, 0),
        (50, 30),
        (70, 30),
    ]


@pytest.mark.parametrize(("limit", "found"), [(None, range(10)), (3, (0, 3, 6)), (40, range(10))])
def test_a_limit_takes_images_from_all_over(data, limit, found):
    names = [Path(sample.name).stem for sample in load_data([data], limit)]
    assert names == [str(i) for i in found]


def test_a_channel_that_never_varied_is_silenced_on_demand(longer, tmp_path):
    source = tmp_path / "checkpoint.pt"
    config, state = checkpoint.read(longer[1] / loop.CHECKPOINT)
    name = "base_net.0.1"
    state["state_dict"][f"{name}.running_var"][3] = 1e-9
    torch.save({**state, "config": configs.to_dict(config)}, source)
    for silences in (False, True):
        export.export(source, tmp_path / "net.tmfile", silences=silences, force=True)
        weight = model.load(tmp_path / "net.tmfile").graph.tensors["base_net.0.0.weight"].data
        assert [bool((filter_ == 0).all()) for filter_ in weight] == [
            silences and channel == 3 for channel in range(len(weight))
        ]


def test_what_models_are_compared_on_is_not_learnt_from(data, tmp_path, capsys):
    rows = [json.loads(line) for line in (data / "annotations.jsonl").read_text().splitlines()]
    for row in rows:
        row["wider_keep"] = {"easy": [0]}
        row["image"] = str(row["image"])
    folder = tmp_path / "val"
    folder.mkdir()
    (folder / "annotations.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status = main(["train", "run", "tiny", "--data", str(folder), "-o", str(tmp_path / "out")])
    assert status == 2
    assert "val: models are compared on it" in capsys.readouterr().err
