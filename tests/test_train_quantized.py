from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from edgeface import FaceDetector, ModelError, _core, cli, model, quantization
from edgeface.backends import native
from edgeface.cli import train_quantize
from edgeface.errors import DataError
from edgeface.graph import Sigmoid
from edgeface.model import Model
from edgeface.quantization import agreement, observing, rounding
from reference import ROUNDING, detector_graph, detector_spec, picture

torch = pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("cv2", reason="opencv is not installed")

from edgeface.train import checkpoint, config, export, learner, loss, pictures, quantized, samples
from edgeface.train.blocks import Heads

PLAIN = rounding.Rounding(correct_biases=False)
STAGE = config.Stage((96, 64), 1, 4)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks as small as these wait for each other's threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def frames(count=4):
    return [picture(seed=seed) for seed in range(count)]


@pytest.fixture(scope="module")
def calibrated():
    graph = detector_graph(landmarks=True)
    opened = Model(Path("it"), graph, detector_spec(graph, score_threshold=0.5), "")
    return quantization.calibrate(opened, frames(), quantization.Options())


def inputs(found):
    core_spec = model.core_spec(found.spec)
    return np.concatenate([_core.preprocess(frame, core_spec, "bgr") for frame in frames()])


def heads_of(graph, images):
    """Of the engine, image by image: by output, in steps where it is quantised."""
    engine = native.open_graph(graph, num_threads=1)
    made = {name: [] for name in graph.outputs}
    for image in images:
        engine.input()[:] = observing._stored(image[None], graph)
        engine.run()
        for name, parts in made.items():
            parts.append(np.asarray(engine.output(name), np.float64).reshape(-1))
    return {name: np.stack(parts) for name, parts in made.items()}


@pytest.mark.parametrize("how", [PLAIN, rounding.Rounding()])
def test_it_rounds_as_the_engine_does(calibrated, how):
    network = quantized.RoundedNetwork(calibrated, how).eval()
    images = inputs(calibrated)
    with torch.no_grad():
        heads = network(torch.from_numpy(images))
    integers = rounding.rounded_graph(
        calibrated.graph, calibrated.ranges, calibrated.statistics, how
    )
    want = heads_of(integers, images)
    for name, got in zip(("scores", "boxes", "landmarks"), heads):
        steps = got.numpy().reshape(len(images), -1) / float(
            integers.tensors[name].quantization.scale[0]
        )
        assert_allclose(steps, steps.round(), rtol=0, atol=1e-3)
        # A sum next to a half of a step may go to the other one: it is exact there, and in float32 here.
        differ = np.abs(steps - want[name])
        assert differ.max() < 1.5
        assert (differ > 0.5).mean() < 0.002


def test_unrounded_it_computes_what_the_network_does(calibrated):
    network = quantized.RoundedNetwork(calibrated, rounding.Rounding(), rounds=False).eval()
    images = inputs(calibrated)
    with torch.no_grad():
        heads = network(torch.from_numpy(images))
    want = heads_of(calibrated.graph, images)
    for name, got in zip(("scores", "boxes", "landmarks"), heads):
        value = got.numpy().reshape(len(images), -1)
        # Two orders of the same float32 sums of at most 12 * 9 products, five layers deep.
        assert_allclose(value, want[name], rtol=0, atol=2e-5 * np.abs(want[name]).max())
    assert network.learnt().tensors.keys() == calibrated.graph.tensors.keys()
    for tensor in calibrated.graph.constants:
        assert (network.learnt().tensors[tensor.name].data == tensor.data).all()


def test_gradients_pass_through_rounding_but_not_through_clipping():
    values = torch.tensor([-200.0, -127.0, -1.4, 0.5, 1.6, 126.9, 127.5], requires_grad=True)
    made = quantized.rounded(values * 0.5, 0.5)
    assert made.tolist() == [-63.5, -63.5, -0.5, 0.0, 1.0, 63.5, 63.5]
    made.sum().backward()
    assert values.grad.tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0]


@pytest.mark.parametrize("scale_steps", [0, 1, 16])
def test_weights_have_the_steps_that_they_are_written_with(scale_steps):
    random = np.random.default_rng(0)
    values = random.normal(size=(9, 4, 3, 3)) * 2.0 ** random.integers(-9, 9, (9, 1, 1, 1))
    values[3] = 0
    values = values.astype(np.float32)
    want = rounding._weight_scale(np.float64(values), np.zeros(9), scale_steps)
    got = quantized.weight_steps(torch.from_numpy(values), scale_steps).numpy()
    assert_allclose(got, want, rtol=3e-7)


def test_what_it_cannot_learn_is_refused(calibrated):
    [first, *others] = calibrated.graph.nodes
    graph = dataclasses.replace(calibrated.graph)
    object.__setattr__(graph, "nodes", (dataclasses.replace(first, op=Sigmoid()), *others))
    with pytest.raises(ModelError, match="no way through Sigmoid"):
        quantized.RoundedNetwork(dataclasses.replace(calibrated, graph=graph), PLAIN)
    heads = dataclasses.replace(calibrated.spec.heads, activation="none")
    spec = dataclasses.replace(calibrated.spec, heads=heads)
    with pytest.raises(ModelError, match="two logits a prior"):
        quantized.RoundedNetwork(dataclasses.replace(calibrated, spec=spec), PLAIN)


def test_a_refusal_names_the_noisiest_layers(calibrated, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quantization, "Limits", lambda: agreement.Limits(sqnr_db=200.0))
    integers = rounding.rounded_graph(
        calibrated.graph, calibrated.ranges, calibrated.statistics, PLAIN
    )
    target = tmp_path / "out.tmfile"
    arguments = argparse.Namespace(target=target, force=False)
    assert train_quantize._write(integers, calibrated, frames(1), arguments) == 1
    *_, noisiest, last = capsys.readouterr().out.splitlines()
    compared = quantization.compare(calibrated.graph, integers, calibrated.spec, frames(1))
    assert noisiest.startswith("noisiest: ")
    for layer in quantization.worst_layers(compared):
        assert f"{layer.kind} '{layer.name}' ({layer.sqnr_db:.1f} dB)" in noisiest
    assert last == f"{target} is not written; --force writes it all the same"
    assert not target.exists()


# --- Learning ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of edgeface's form."""
    from test_train_models import write_data

    return write_data(tmp_path_factory.mktemp("data"), 40)


COARSE = dataclasses.replace(PLAIN, scale_steps=1)  # weights of 6 or 7 bits: much to make up for


@pytest.fixture
def learn(calibrated, data):
    """Learns on eight images; the network and what every step cost."""
    known = samples.trainable(samples.open_archive(data))[:8]
    decoded = pictures.decode_pictures(known)
    run = config.Config("it", "slim", (STAGE,), landmark_weight=1.0)

    def learn(epochs, rate, seen=doubles):
        network = quantized.RoundedNetwork(calibrated, COARSE)
        teacher = quantized.RoundedNetwork(calibrated, COARSE, rounds=False)
        costs = []
        options = {"epochs": epochs, "rate": rate}
        for done, cost in quantized.learn(network, teacher, run, known, decoded, **options):
            costs.append((done, cost))
            seen(network)
        return network, costs

    return learn


def test_learning_costs_less_and_less_and_starts_with_what_it_was_given(calibrated, learn):
    before = quantized.RoundedNetwork(calibrated, COARSE).learnt()
    network, found = learn(epochs=10, rate=1e-3)
    assert [done for done, _ in found] == [step / 20 for step in range(1, 21)]
    costs = [cost for _, cost in found]
    assert np.mean(costs[-5:]) < 0.7 * np.mean(costs[:5])
    assert all(before.tensors[t.name].data is not t.data for t in network.learnt().constants)


def test_last_step_that_breaks_the_weights_is_an_error(learn, monkeypatch):
    whole = quantized._loss

    def cost(network, *others):  # finite; its gradient is not
        return whole(network, *others) + (0 * network.constants[0]).sqrt().sum()

    monkeypatch.setattr(quantized, "_loss", cost)
    with pytest.raises(
        DataError, match=r"weights are not finite: a smaller rate than 0\.001 helps"
    ):
        learn(epochs=0.5, rate=1e-3)


def distances(calibrated, network):
    """From float32 in scores, boxes and landmarks, on images that it was calibrated with but never learnt on."""
    images = torch.from_numpy(inputs(calibrated))
    with torch.no_grad():
        teacher = quantized.RoundedNetwork(calibrated, COARSE, rounds=False)(images)
        said = network(images)
    parts = loss.distillation_loss(said, teacher, temperature=1.0, confident=0.3)
    marks = loss.landmark_distillation_loss(said, teacher, confident=0.3)
    return np.array([float(part) for part in (*parts, marks)])


def test_learning_comes_closer_to_float32_on_images_that_it_has_not_seen(calibrated, learn):
    before = distances(calibrated, quantized.RoundedNetwork(calibrated, COARSE))
    after = distances(calibrated, learn(epochs=15, rate=1e-3)[0])
    assert (before > 0).all()
    assert (after < 0.8 * before).all()


def test_corrected_biases_are_nearer_to_float32_before_anything_is_learnt(calibrated):
    both = (COARSE, dataclasses.replace(COARSE, correct_biases=True))
    plain, corrected = (
        distances(calibrated, quantized.RoundedNetwork(calibrated, how)) for how in both
    )
    assert corrected.sum() < 0.9 * plain.sum()


def doubles(network):
    return [constant.detach().double().numpy() for constant in network.constants]


def test_what_is_learnt_is_the_average_of_all_steps(calibrated, learn, monkeypatch):
    learnt, _ = learn(epochs=6, rate=1e-3)
    steps = []
    monkeypatch.setattr(quantized, "_AVERAGE", 0.0)
    last, _ = learn(epochs=6, rate=1e-3, seen=lambda network: steps.append(doubles(network)))
    want = doubles(quantized.RoundedNetwork(calibrated, COARSE))
    for number, constants in enumerate(steps):
        keep = min(0.9, (1 + number) / (10 + number))
        want = [keep * a + (1 - keep) * c for a, c in zip(want, constants)]
    assert len(steps) == 12
    for got, average, end in zip(doubles(learnt), want, doubles(last)):
        # Three roundings to float32 a step.
        assert_allclose(got, average, rtol=0, atol=36 * ROUNDING * np.abs(average).max())
        assert np.abs(got - end).max() > 1e-6


def test_landmarks_count_where_the_teacher_is_sure():
    random = np.random.default_rng(0)
    scores, said, wanted = (random.normal(size=(2, 30, n)).astype(np.float32) for n in (2, 10, 10))
    face = 1 / (1 + np.exp(np.float64(scores[..., 0]) - scores[..., 1]))
    weight = np.where(face >= 0.4, face, 0)
    size = np.abs(np.float64(said) - wanted)
    each = np.where(size < 1, size**2 / 2, size - 0.5).sum(-1)
    made = [
        Heads(torch.from_numpy(scores), torch.zeros(2, 30, 4), torch.from_numpy(v))
        for v in (said, wanted)
    ]
    got = float(loss.landmark_distillation_loss(*made, confident=0.4))
    assert got == pytest.approx((each * weight).sum() / weight.sum(), rel=1e-5)
    none = made[0]._replace(landmarks=None)
    assert loss.landmark_distillation_loss(none, made[1], confident=0.4) == 0
    assert loss.landmark_distillation_loss(made[0], none, confident=0.4) == 0


@pytest.mark.parametrize("silences", [False, True])
def test_quiet_channels_are_silenced_before_calibration_if_asked(tmp_path, silences):
    run = config.Config("tried", "slim", (config.Stage((160, 128), 1, 4),), ema=0.0)
    made = learner.Learner(run, torch.device("cpu"))
    state = made.state_dict()
    first = next(name for name in state["state_dict"] if name.endswith("running_var"))
    state["state_dict"][first][3] = 0  # it never varied
    checkpoint.write(tmp_path / "a.pt", {"config": config.to_dict(run), **state})
    _, calibrated = train_quantize._calibrated(
        tmp_path / "a.pt", {"one": picture(1)}, silences=silences
    )
    weights = calibrated.graph.tensors[calibrated.graph.nodes[0].inputs[1]].data
    assert weights[4].any()
    assert weights[3].any() != silences


def test_a_checkpoint_becomes_an_int8_model_that_has_learnt(data, tmp_path, capsys, monkeypatch):
    compared, differences = [], export.differences

    def recorded(*arguments):
        compared.append(differences(*arguments))
        return compared[-1]

    monkeypatch.setattr(export, "differences", recorded)
    run = config.Config("tried", "slim", (config.Stage((160, 128), 1, 4),), ema=0.0, held_out=0.3)
    made = learner.Learner(run, torch.device("cpu"))
    source = tmp_path / "checkpoint.pt"
    checkpoint.write(
        source, {"config": config.to_dict(run), "progress": {"step": 1}, **made.state_dict()}
    )
    target = tmp_path / "out.tmfile"
    arguments = [str(source), str(target), "--data", str(data), "--epochs", "0.2"]
    arguments += ["--limit", "20", "--num-threads", "1"]
    status = cli.main(["train", "quantize", *arguments, "--force"])
    out = capsys.readouterr().out
    assert [len(found) for found in compared] == [1 + 3]  # noise, and images of the data
    assert status in (0, 1)  # what a network of chance finds may disagree
    for what in ("in float32", "in int8\n", "in int8, having learnt", "100% step", "wrote"):
        assert what in out
    opened = model.load(target)
    assert opened.graph.is_quantized
    assert (opened.spec.heads.activation, opened.spec.input.width) == ("softmax", 160)
    with FaceDetector(target) as detector:
        detector.detect(picture(1))
    assert cli.main(["train", "quantize", *arguments]) == 2
    assert "exists" in capsys.readouterr().err
