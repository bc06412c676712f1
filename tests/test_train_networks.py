from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from edgeface import networks as graphs
from edgeface.errors import ModelError
from edgeface.formats import torch_weights
from reference import SHARED, needs_shared
from test_networks import NETWORKS, Modules, forward, make_weights

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from edgeface.train import weights as train_weights
from edgeface.train.networks import make_network

RELEASED = {
    "ultraface/version-RFB-320": ("rfb", False),
    "ultraface/version-RFB-640": ("rfb", False),
    "ultraface/version-slim-320": ("slim", False),
    "ultraface/version-slim-640": ("slim", False),
    "ultraface-landmark/RBF_Final": ("rfb", True),
    "ultraface-landmark/slim_Final": ("slim", True),
}


def described(network):
    """What make_network calls that one."""
    return network.split("-")[0].lower(), network.endswith("landmark")


def loaded(network, arrays):
    kind, landmarks = described(network)
    module = make_network(kind, landmarks=landmarks)
    module.load_state_dict({key: torch.tensor(value) for key, value in arrays.items()})
    return module.eval()


@pytest.mark.parametrize("network", NETWORKS)
def test_heads_are_those_of_the_definition(network):
    arrays = make_weights(network)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 56, 72))
    with torch.no_grad():
        heads = loaded(network, arrays).double()(torch.from_numpy(image))
    for name, wanted in forward(Modules(arrays), network, image).items():
        # Sums of at most 2304 terms, some 30 of them one after another, in float64.
        tolerance = 2304 * 30 * 2.0**-53 * np.abs(wanted).max()
        assert_allclose(getattr(heads, name).numpy(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_new_network_has_the_arrays_that_a_graph_is_built_from(network):
    kind, landmarks = described(network)
    state = make_network(kind, landmarks=landmarks).state_dict()
    graph = graphs.build(train_weights.arrays_of(state), (128, 96))
    assert ("landmarks" in graph.outputs) == landmarks


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="'yolo'; known: slim, rfb"):
        make_network("yolo", landmarks=False)


@needs_shared
@pytest.mark.parametrize("name", RELEASED)
def test_released_weights_load_without_a_missing_or_unexpected_key(name):
    kind, landmarks = RELEASED[name]
    arrays = torch_weights.read((SHARED / "weights" / f"{name}.pth").read_bytes())
    module = make_network(kind, landmarks=landmarks)
    module.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()}, strict=True)


@needs_shared
@pytest.mark.onnx
@pytest.mark.parametrize("name", ["version-RFB-320", "version-slim-320"])
def test_outputs_equal_the_released_onnx(name):
    ort = pytest.importorskip("onnxruntime")
    folder = SHARED / "weights" / "ultraface"
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns of every array that is an input, too
    session = ort.InferenceSession(folder / f"{name}_simplified.onnx", options)
    image = np.random.default_rng(0).normal(size=(1, 3, 240, 320)).astype(np.float32)
    scores, boxes = session.run(None, {session.get_inputs()[0].name: image})
    with torch.no_grad():
        heads = train_weights.open_teacher(folder / f"{name}.pth")(torch.from_numpy(image))
    assert_allclose(heads.scores.softmax(-1).numpy(), scores, rtol=0, atol=1e-5)
    assert_allclose(heads.boxes.numpy(), boxes, rtol=0, atol=1e-5)


# --- Weights from files ------------------------------------------------------------------------------


def test_a_network_is_told_by_its_weights(tmp_path):
    for kind in ("slim", "rfb"):
        made = make_network(kind, landmarks=False)
        torch.save(made.state_dict(), tmp_path / "net.pth")
        opened = train_weights.open_teacher(tmp_path / "net.pth")
        assert opened.state_dict().keys() == made.state_dict().keys()
        assert not opened.training
        assert not any(p.requires_grad for p in opened.parameters())


def test_a_teacher_with_landmarks_is_refused_by_its_file(tmp_path):
    torch.save(make_network("slim", landmarks=True).state_dict(), tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"net\.pth: with landmarks"):
        train_weights.open_teacher(tmp_path / "net.pth")


def test_weights_of_no_known_network_are_refused_by_their_file(tmp_path):
    torch.save({"conv.weight": torch.zeros(3, 3, 1, 1)}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"net\.pth: these are weights of no network known"):
        train_weights.open_teacher(tmp_path / "net.pth")
