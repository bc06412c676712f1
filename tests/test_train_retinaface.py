from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from edgeface import networks as graphs
from edgeface.errors import ModelError
from edgeface.formats import torch_weights
from reference import SHARED, needs_shared
from test_networks import Modules
from test_retinaface import BACKBONES, RELEASED, forward, make_weights

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from edgeface.train import weights as train_weights
from edgeface.train.networks import make_network

WEIGHTS = SHARED / "weights"
PRETRAINED = WEIGHTS / "retinaface" / "mobilenetV1X0.25_pretrain.tar"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Enough for images this small; several would wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loaded(backbone, arrays):
    module = make_network(f"retinaface-{backbone}", landmarks=True)
    module.load_state_dict({key: torch.tensor(value) for key, value in arrays.items()}, strict=True)
    return module.eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_heads_are_those_of_the_definition(backbone):
    """And its arrays are called as in the definition, none missing and none more."""
    arrays = make_weights(backbone)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 40, 56))
    with torch.no_grad():
        heads = loaded(backbone, arrays).double()(torch.from_numpy(image))
    for name, wanted in forward(Modules(arrays), backbone, image).items():
        # Sums of at most 4608 terms, some 65 of them one after another, in float64.
        tolerance = 4608 * 65 * 2.0**-53 * np.abs(wanted).max()
        assert_allclose(getattr(heads, name).numpy(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("landmarks", [True, False])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_new_network_has_the_arrays_that_a_graph_is_built_from(backbone, landmarks):
    made = make_network(f"retinaface-{backbone}", landmarks=landmarks)
    graph = graphs.build(train_weights.arrays_of(made.state_dict()), (128, 96))
    assert ("landmarks" in graph.outputs) == landmarks
    again = train_weights.network_of(made.state_dict())
    assert again.state_dict().keys() == made.state_dict().keys()


def test_features_are_what_the_heads_look_at():
    network = make_network("retinaface-mobilenet0.25", landmarks=True).eval()
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = network.features(image)
        assert [tuple(f.shape) for f in features] == [(2, 64, 8, 12), (2, 64, 4, 6), (2, 64, 2, 3)]
        for one, other in zip(network.heads(features), network(image)):
            assert torch.equal(one, other)


@needs_shared
@pytest.mark.parametrize("file", RELEASED)
def test_released_weights_load_without_a_missing_or_unexpected_key(file):
    arrays = torch_weights.read((WEIGHTS / file).read_bytes())
    loaded("mobilenet0.25", arrays)
    opened = train_weights.open_network(WEIGHTS / file)
    assert torch.equal(
        opened.state_dict()["fpn.merge1.0.weight"], torch.tensor(arrays["fpn.merge1.0.weight"])
    )


@needs_shared
def test_the_pretrained_backbone_is_a_network_to_begin_with():
    arrays = torch_weights.read(PRETRAINED.read_bytes())
    state = train_weights.open_network(PRETRAINED).state_dict()
    for key, value in arrays.items():
        if not key.startswith("fc."):
            assert_allclose(state[f"body.{key}"].numpy(), value)
    assert (
        state.keys() == make_network("retinaface-mobilenet0.25", landmarks=True).state_dict().keys()
    )


def test_a_damaged_backbone_is_refused_by_its_file(tmp_path):
    torch.save({"stage1.0.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "body.tar")
    with pytest.raises(
        ModelError, match=r"body\.tar: no backbone of retinaface-mobilenet0\.25: .*stage1"
    ):
        train_weights.open_network(tmp_path / "body.tar")
