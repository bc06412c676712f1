from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch")

from edgeface.train.depthwise import Depthwise

# Sums of at most 2 * 13 * 17 products, in float32; bfloat16 has 8 bits, and both factors and the sum are rounded.
TOLERANCES = {torch.float32: 442 * 2.0**-24, torch.bfloat16: 3 * 2.0**-8}


def learnt(module, image, wanted, dtype, run=None):
    """The output, and the gradients of the image, the weight and the bias."""
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        made = (module if run is None else run)(image)
    assert made.dtype == dtype
    made.backward(wanted.to(dtype))
    return made.detach(), image.grad, module.weight.grad, module.bias.grad


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # what compiling imports
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 12), (13, 17), (1, 2)])
def test_gradients_are_those_of_a_convolution(size, stride, dtype, compiled):
    torch.manual_seed(0)
    module = Depthwise(6, stride)
    image = torch.randn(2, 6, *size).to(memory_format=torch.channels_last)
    usual = torch.nn.Conv2d(6, 6, 3, stride, 1, groups=6).double()
    usual.load_state_dict(module.state_dict())
    wanted = torch.randn(usual(image.double()).shape)
    expected = learnt(usual, image.double(), wanted.double(), torch.float64)
    run = torch.compile(module) if compiled else None
    for found, known in zip(learnt(module, image, wanted, dtype, run), expected):
        assert (found - known).abs().max() <= TOLERANCES[dtype] * known.abs().max()
