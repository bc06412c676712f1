"""The 3x3 of each channel's own, whose gradients PyTorch is slow to compute on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Depthwise(nn.Conv2d):
    """What it computes is nn.Conv2d's; what a CPU computes for its gradients is them in another way.

    oneDNN has no fast gradients of stride 2 in channels-last order. Those of stride 1 are the same where zeros are
    put between the gradients of outputs, of which three quarters would not be there. Of an RFB network at 320x240 in
    bfloat16, compiled, a batch's forward and backward take 0.65 of the time, on one thread of a Zen 4.
    """

    def __init__(self, channels: int, stride: int = 1, *, bias: bool = True) -> None:
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        if not (image.is_cpu and torch.is_grad_enabled()):
            return super().forward(image)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            kind = torch.get_autocast_dtype("cpu")
            image, weight = image.to(kind), weight.to(kind)
        made: Tensor = _Convolved.apply(image, weight, self.stride[0])
        return made if bias is None else made + bias.to(made.dtype)[:, None, None]


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.stride = stride
        return functional.conv2d(image, weight, None, stride, 1, 1, image.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        return *_gradients(gradient, *ctx.saved_tensors, ctx.stride), None


# An operator of its own, so that compiling leaves it whole: it would put the zeros there one by one.
@torch.library.custom_op("edgeface::depthwise_gradients", mutates_args=())  # type: ignore[untyped-decorator]
def _gradients(
    gradient: Tensor, image: Tensor, weight: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    """Of image and weight, by that of the output; the padding is 1."""
    order = torch.channels_last
    if stride > 1:
        spread = torch.zeros_like(image, memory_format=order)
        spread[:, :, ::stride, ::stride] = gradient
        gradient = spread
    gradient, image = (
        gradient.contiguous(memory_format=order),
        image.contiguous(memory_format=order),
    )
    one = [1, 1]
    of_image, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient,
        image,
        weight,
        None,
        one,
        one,
        one,
        False,
        [0, 0],
        image.shape[1],
        [True, True, False],
    )
    return of_image, of_weight


@_gradients.register_fake  # type: ignore[untyped-decorator]
def _(_gradient: Tensor, image: Tensor, weight: Tensor, _stride: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(image, memory_format=torch.channels_last), torch.empty_like(weight)
