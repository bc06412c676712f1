from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.testing import assert_allclose

from edgeface import model, zoo
from edgeface import networks as graphs
from edgeface.errors import ModelError
from edgeface.formats import torch_weights
from reference import SHARED, needs_shared
from test_networks import Modules, outputs_of
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


@needs_shared
@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
@pytest.mark.parametrize("size", [(640, 640), (1280, 720), (427, 319)])
@pytest.mark.parametrize("file", RELEASED)
def test_released_weights_give_what_pytorch_gives(file, size, backend):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    graph = model.load(WEIGHTS / file).graph.resized(*size)
    image = np.random.default_rng(0).integers(-120, 140, graph.tensors["input"].shape)
    image = image.astype(np.float32)
    found = outputs_of(graph, image, backend)
    with torch.no_grad():
        heads = train_weights.open_network(WEIGHTS / file)(torch.from_numpy(image))
    wanted = {
        "scores": heads.scores.softmax(-1),
        "boxes": heads.boxes,
        "landmarks": heads.landmarks,
    }
    for name, values in wanted.items():
        # Float32 in other orders, and BatchNorm folded. Measured: 3.2e-5 at most, of landmarks up to 5.
        assert_allclose(found[name], values.numpy().reshape(-1), rtol=0, atol=1e-4)


def test_resnet50_gives_what_pytorch_gives():
    """With random weights, and BatchNorms that have seen what comes."""
    torch.manual_seed(0)
    network = make_network("retinaface-resnet50", landmarks=True)
    with torch.no_grad():
        network(torch.randn(2, 3, 96, 128))
        network.train()(torch.randn(2, 3, 96, 128))
    graph = graphs.build(train_weights.arrays_of(network.eval().state_dict()), (107, 75))
    image = np.random.default_rng(0).normal(size=(1, 3, 75, 107)).astype(np.float32)
    found = outputs_of(graph, image, "native")
    with torch.no_grad():
        heads = network(torch.from_numpy(image))
    for name in ("boxes", "landmarks"):
        values = getattr(heads, name).numpy().reshape(-1)
        # As above, of values a thousand times as large.
        assert_allclose(found[name], values, rtol=0, atol=2e-5 * np.abs(values).max())


@needs_shared
@pytest.mark.parametrize("file", RELEASED)
def test_batch_norms_remember_what_comes(file):
    """Neither weights nor their repository's name tell the slope of their ReLUs; this does.

    Variances in front of the context modules' BatchNorms on photographs over those that they remember.
    """
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    right = zoo.known(hashlib.sha256((WEIGHTS / file).read_bytes()).hexdigest()).slope
    paths = sorted((SHARED / "images").glob("*.jpg"))
    images = np.stack([cv2.resize(cv2.imread(str(path)), (320, 320)) for path in paths])
    images = (
        torch.from_numpy(images).permute(0, 3, 1, 2)
        - torch.tensor([104.0, 117, 123])[:, None, None]
    )
    arrays = torch_weights.read((WEIGHTS / file).read_bytes())
    weights = {key: torch.tensor(value) for key, value in arrays.items()}
    distances = {
        s: strangeness(train_weights.network_of(weights, slope=s), images) for s in (0.1, 0.0)
    }
    assert min(distances, key=distances.get) == (0.1 if right is None else right)


def strangeness(network, images):
    found = []

    def compare(norm, inputs, _):
        variance = inputs[0].var((0, 2, 3))
        found.append((variance / norm.running_var).log().square().mean().item())

    for name, module in network.named_modules():
        if name.startswith("ssh") and isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(compare)
    with torch.no_grad():
        network(images)
    return np.mean(found)
