from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeface import convert, model, networks
from edgeface.cli import main
from edgeface.errors import ModelError
from reference import SHARED, needs_shared

torch = pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("cv2", reason="training needs OpenCV")

from edgeface.train import checkpoint, loop, weights
from edgeface.train.networks import NETWORKS, make_network
from edgeface.train.start import fitted, open_start, settle, unfolded
from test_train_run import CPU, SMALL, changed, data, images, one_thread, samples  # noqa: F401

# Folding and unfolding round a weight and a bias of each of at most 70 layers once or twice more, each by 2^-24.
TOLERANCE = 4 * 70 * 2.0**-24


def trained(network, *, landmarks=False):
    """With BatchNorms that have seen something."""
    torch.manual_seed(1)
    made = make_network(network, landmarks=landmarks)
    for norm in norms(made):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()
    return made.eval()


def norms(network):
    return [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def graph_of(network):
    return networks.build(weights.arrays_of(network.state_dict()), (64, 48))


def image_of(count=2, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 3, 48, 64))).float()


def assert_same_heads(one, other):
    for found, wanted in zip(one, other):
        if wanted is not None:
            assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


@pytest.mark.parametrize("landmarks", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_graph_becomes_the_network_that_it_was_made_of(network, landmarks):
    original = trained(network, landmarks=landmarks)
    found = unfolded(graph_of(original))
    assert type(found) is type(original)
    with torch.no_grad():
        assert_same_heads(found(image_of()), original(image_of()))


@pytest.mark.parametrize("suffix", [".tmfile", ".onnx"])
def test_a_model_file_is_something_to_begin_with(tmp_path, suffix):
    original = trained("rfb")
    torch.save(original.state_dict(), tmp_path / "net.pth")
    convert.convert(tmp_path / "net.pth", tmp_path / f"net{suffix}")
    with torch.no_grad():
        assert_same_heads(open_start(tmp_path / f"net{suffix}")(image_of()), original(image_of()))


@pytest.mark.parametrize("network", ["slim", "rfb", "retinaface-mobilenet0.25"])
def test_settling_changes_what_batchnorms_have_seen_and_not_what_is_computed(network):
    found = unfolded(graph_of(trained(network)))
    with torch.no_grad():
        before = found(image_of())
    settle(found, [image_of(8, seed) for seed in range(3)])
    assert not found.training
    with torch.no_grad():
        assert_same_heads(found(image_of()), before)


def test_a_settled_network_normalises_batches_as_it_does_images():
    """Without settling, batches would be scaled anew, and it would compute something else."""
    before = unfolded(graph_of(trained("rfb")))
    after = unfolded(graph_of(trained("rfb")))
    batch = image_of(8)
    settle(after, [batch])
    with torch.no_grad():
        wanted = before(batch)
        for network, near in ((before, False), (after, True)):
            network.train()
            distance = (network(batch).boxes - wanted.boxes).square().mean().sqrt()
            # The batch's own statistics are those of all images that it has seen: what is left is rounding,
            # which a BatchNorm of hardly anything, behind dead ReLUs, makes larger.
            assert (distance < 1e-3 * wanted.boxes.std()) == near


def test_slim_begins_as_an_rfb_but_for_the_block():
    rfb = trained("rfb")
    found, left = fitted(rfb, changed(network="slim"))
    assert {name.split(".")[1] for name in left} == {"7"}
    assert all(name.startswith("base_net.") for name in left)
    for key, value in found.state_dict().items():
        assert (key in left) != torch.equal(value, rfb.state_dict().get(key, torch.tensor(-1)))
    again, _ = fitted(rfb, changed(network="slim"))
    assert all(
        torch.equal(v, w) for v, w in zip(found.state_dict().values(), again.state_dict().values())
    )


@pytest.mark.parametrize("network", ["slim", "rfb"])
def test_landmarks_are_heads_beside_those_of_a_network_without(network):
    original = trained(network)
    found, left = fitted(original, changed(network=network, landmarks=True))
    assert left
    assert all(name.startswith("landm.") for name in left)
    with torch.no_grad():
        heads, wanted = found.eval()(image_of()), original(image_of())
    assert torch.equal(heads.scores, wanted.scores)
    assert torch.equal(heads.boxes, wanted.boxes)
    assert heads.landmarks.shape == (*wanted.scores.shape[:2], 10)


def test_what_has_little_in_common_is_refused():
    with pytest.raises(ValueError, match="another network than slim with landmarks"):
        fitted(trained("retinaface-mobilenet0.25"), changed(landmarks=True))


def test_a_leaky_network_keeps_its_slope():
    torch.manual_seed(0)
    leaky = make_network("retinaface-mobilenet0.25", landmarks=True, slope=0.25)
    graph = networks.build(weights.arrays_of(leaky.state_dict()), (64, 48), slope=0.25)
    assert unfolded(graph).slope == 0.25
    config = changed(network="retinaface-mobilenet0.25", landmarks=True)
    assert fitted(leaky, config)[0].slope == 0.25


def test_other_graphs_are_refused_with_what_is_missing():
    graph = graph_of(trained("slim"))
    node = graph.nodes[0]
    renamed = {node.inputs[1]: "kernel"}
    tensors = {
        renamed.get(name, name): dataclasses.replace(tensor, name=renamed.get(name, name))
        for name, tensor in graph.tensors.items()
    }
    first = dataclasses.replace(node, inputs=tuple(renamed.get(n, n) for n in node.inputs))
    other = dataclasses.replace(graph, tensors=tensors, nodes=(first, *graph.nodes[1:]))
    with pytest.raises(ModelError, match=r"no base_net\.0\.0\.weight; did edgeface write it"):
        unfolded(other)


def test_a_quantised_model_is_refused_by_name():
    with pytest.raises(ModelError, match=r"rfb320-int8\.tmfile: it is quantised"):
        open_start(model.bundled.resolved("rfb320-int8"))


def test_a_run_begins_where_the_model_is(data, samples, images, tmp_path, capsys):  # noqa: F811
    config = changed(stages=(dataclasses.replace(SMALL.stages[0], epochs=30),))
    first = tmp_path / "first"
    first.mkdir()
    reports = list(loop.train(config, samples, images, first, device=CPU))
    export = ["train", "export", str(first / loop.CHECKPOINT), str(tmp_path / "small.tmfile")]
    assert main(export) == 0
    second = tmp_path / "second"
    second.mkdir()
    start, left = fitted(open_start(tmp_path / "small.tmfile"), SMALL)
    assert left == []
    again = list(loop.train(SMALL, samples, images, second, device=CPU, start=start, settles=True))
    # Where it began from nothing, the first report's loss is several times as large.
    assert again[0].total < (reports[0].total + reports[-1].total) / 2
    assert checkpoint.read(second / loop.CHECKPOINT)[1]["steps"] == again[-1].step
    arguments = ["train", "run", "tiny", "--data", str(data), "-o", str(tmp_path / "third")]
    changes = ["stages.0.size=(64,48)", "stages.0.epochs=1", "stages.0.batch=4", "network=rfb"]
    options = [part for change in changes for part in ("--set", change)]
    arguments += ["--start", str(tmp_path / "small.tmfile"), "--num-threads", "1"]
    capsys.readouterr()
    assert main([*arguments, *options]) == 0
    assert "small.tmfile but for base_net.7\n" in capsys.readouterr().out


@needs_shared
def test_a_file_that_others_wrote_is_refused():
    with pytest.raises(ModelError, match="did edgeface write it"):
        open_start(SHARED / "weights" / "ultraface" / "version-RFB-320_simplified.onnx")
