from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from edgeface import FaceDetector, ModelError, _core, cli, model, quantization
from edgeface.backends import native
from edgeface.graph import Sigmoid
from edgeface.model import Model
from edgeface.quantization import observing, rounding
from reference import detector_graph, detector_spec, picture

torch = pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("cv2", reason="opencv is not installed")

from edgeface.train import checkpoint, config, learner, pictures, quantized, samples

STEPS = rounding.Rounding().scale_steps
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


def test_it_rounds_as_the_engine_does(calibrated):
    network = quantized.RoundedNetwork(calibrated, STEPS).eval()
    images = inputs(calibrated)
    with torch.no_grad():
        heads = network(torch.from_numpy(images))
    plain = rounding.Rounding(correct_biases=False)
    integers = rounding.rounded_graph(
        calibrated.graph, calibrated.ranges, calibrated.statistics, plain
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
    network = quantized.RoundedNetwork(calibrated, STEPS).eval()
    network.rounds = False
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
        quantized.RoundedNetwork(dataclasses.replace(calibrated, graph=graph), STEPS)
    heads = dataclasses.replace(calibrated.spec.heads, activation="none")
    spec = dataclasses.replace(calibrated.spec, heads=heads)
    with pytest.raises(ModelError, match="two logits a prior"):
        quantized.RoundedNetwork(dataclasses.replace(calibrated, spec=spec), STEPS)


# --- Learning ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of edgeface's form."""
    from test_train_models import write_data

    return write_data(tmp_path_factory.mktemp("data"), 40)


def test_learning_costs_less_and_less_and_starts_with_what_it_was_given(calibrated, data):
    known = samples.load_samples(data, on_error="skip")[:8]
    run = config.Config("it", "slim", (STAGE,), distillation=config.Distillation(scores=0, boxes=0))
    network = quantized.RoundedNetwork(calibrated, STEPS)
    before = network.learnt()
    decoded = pictures.decode_pictures(known)
    found = list(quantized.learn(network, run, known, decoded, epochs=20, rate=3e-3))
    assert [done for done, _ in found] == [step / 40 for step in range(1, 41)]
    costs = [cost for _, cost in found]
    assert np.mean(costs[-8:]) < 0.8 * np.mean(costs[:8])
    assert all(before.tensors[t.name].data is not t.data for t in network.learnt().constants)


def test_a_checkpoint_becomes_an_int8_model_that_has_learnt(data, tmp_path, capsys):
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
