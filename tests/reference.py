"""Every stage from its definition, slow and obviously right: float64, or exact integers.

Nothing here calls the C++ core. Networks come with a bound on what float32 may lose, so that no test has to
choose a tolerance.
"""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import numpy as np
import pytest

from edgeface import _core
from edgeface.graph import (
    Add,
    Concat,
    Conv,
    Graph,
    LeakyRelu,
    MaxPool,
    Node,
    Quantization,
    Relu,
    Reshape,
    Sigmoid,
    Softmax,
    Tensor,
    Transpose,
    Upsample,
    infer_shape,
)
from edgeface.spec import HeadSpec, InputSpec, ModelSpec, PriorSpec

# The most that rounding a real number to float32 changes it, relative to it.
ROUNDING = 2.0**-24

SHARED = Path(__file__).parents[2] / "shared"
needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(),
    reason=f"the released weights ({SHARED}/weights) are not here",
)


def photograph(name):
    """(H, W, 3) uint8 BGR. Where there is no OpenCV, packaging/emulate.py has decoded it."""
    decoded = os.environ.get("EDGEFACE_PHOTOGRAPHS")
    if decoded is not None:
        return np.load(Path(decoded) / f"{name}.npy")
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    return cv2.imread(str(SHARED / "images" / name))


_BUILT_ISAS = {
    "x86_64": ("avx512vnni", "avx512", "avx2", "scalar"),
    "aarch64": ("neon_dotprod", "neon", "scalar"),
}.get(platform.machine(), ("neon", "scalar"))
ISAS = [
    pytest.param(
        isa, marks=[] if isa in _core.isas() else pytest.mark.skip(reason=f"this CPU has no {isa}")
    )
    for isa in _BUILT_ISAS
]


# --- Preprocessing ---------------------------------------------------------------------------------------


def taps(source, target):
    """For every target pixel: two source pixels and the weight of the second in 1/2048.

    Pixel centres coincide, (i + 0.5) * source / target - 0.5, and stay on the image.
    """
    return taps_at(
        (2 * np.arange(target, dtype=np.int64) + 1) * source - target, 2 * target, source
    )


def chroma_taps(source, target, phase):
    """The same of U and V, of which each has its place between two pixels; `phase` pixels are cut off before."""
    position = (2 * np.arange(target, dtype=np.int64) + 1) * source + 2 * target * (phase - 1)
    return taps_at(position, 4 * target, (source + phase + 1) // 2)


def taps_at(position, denominator, count):
    position = np.clip(position, 0, (count - 1) * denominator)
    first = position // denominator
    weight = np.floor_divide(2 * 2048 * (position % denominator) + denominator, 2 * denominator)
    return first, np.minimum(first + 1, count - 1), weight


def resize(image, width, height):
    """(H, W, C) uint8 -> (height, width, C): 11-bit weights, 7 fractional bits kept between the passes."""
    return blend(image, taps(image.shape[1], width), taps(image.shape[0], height))


def blend(image, across, down):
    image = image.astype(np.int64)
    left, right, across = across
    across = across[:, None]
    rows = image[:, left] * (2048 - across) + image[:, right] * across
    rows = (rows + 8) // 16
    upper, lower, down = down
    down = down[:, None, None]
    pixels = rows[upper] * (2048 - down) + rows[lower] * down
    return (pixels + 2**17) // 2**18


def resize_float(image, width, height):
    """The same without rounding anything."""

    def line(values, count):
        size = len(values)
        position = np.clip((np.arange(count) + 0.5) * size / count - 0.5, 0, size - 1)
        first = np.floor(position).astype(int)
        second = np.minimum(first + 1, size - 1)
        weight = (position - first).reshape(-1, 1, 1)
        return values[first] * (1 - weight) + values[second] * weight

    rows = line(image.astype(np.float64), height)
    return line(rows.transpose(1, 0, 2), width).transpose(1, 0, 2)


def yuv_planes(frame, channels):
    """Y (H, W, 1); U and V (H, W / 2, 2) of yuyv and uyvy, (H / 2, W / 2, 2) of the others."""
    if channels in ("yuyv", "uyvy"):
        y, uv = (0, 1) if channels == "yuyv" else (1, 0)
        return frame[..., y, None], frame[..., uv].reshape(len(frame), -1, 2)
    height = len(frame) // 3 * 2
    if channels == "i420":
        return frame[:height, :, None], np.moveaxis(
            frame[height:].reshape(2, height // 2, -1), 0, 2
        )
    chroma = frame[height:].reshape(height // 2, -1, 2)
    return frame[:height, :, None], chroma if channels == "nv12" else chroma[..., ::-1]


def resize_yuv(frame, channels, width, height, roi=None):
    """(height, width, 3) Y, U and V, of the whole frame or a part of it."""
    luma, chroma = yuv_planes(frame, channels)
    x, y, w, h = roi or (0, 0, *luma.shape[1::-1])
    luma = luma[y : y + h, x : x + w]
    chroma = chroma[:, x // 2 : (x + w + 1) // 2]
    if channels in ("yuyv", "uyvy"):
        chroma, down = chroma[y : y + h], taps(h, height)
    else:
        chroma, down = chroma[y // 2 : (y + h + 1) // 2], chroma_taps(h, height, y % 2)
    uv = blend(chroma, chroma_taps(w, width, x % 2), down)
    return np.concatenate([resize(luma, width, height), uv], axis=2)


def yuv_to_rgb(yuv):
    """BT.601, limited range, integers: the coefficients in 1/8192, each product rounded to 1/32."""
    y, u, v = np.moveaxis(yuv.astype(np.int64) - (16, 128, 128), -1, 0)

    def product(value, coefficient):
        return (value * coefficient + 128) // 256

    luma = product(y, 9539)
    red, green = luma + product(v, 13075), luma + product(v, -6660) + product(u, -3209)
    rgb = np.stack([red, green, luma + product(u, 16525)], axis=-1)
    return np.clip((rgb + 16) // 32, 0, 255)


def yuv_to_rgb_float(yuv):
    """From the definition: luma of red .299, green .587, blue .114; Y 16 to 235, U and V 16 to 240."""
    y, u, v = (yuv[..., 0] - 16) / 219, (yuv[..., 1] - 128) / 224, (yuv[..., 2] - 128) / 224
    red, blue = y + 2 * (1 - 0.299) * v, y + 2 * (1 - 0.114) * u
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    return 255 * np.clip(np.stack([red, green, blue], axis=-1), 0, 1)


def preprocess(frame, channels, *, width, height, order, mean, scale, roi=None):
    """(1, C, height, width) float32, stretched; `roi` is for cameras' frames."""
    if channels in ("yuyv", "uyvy", "nv12", "nv21", "i420"):
        colours = yuv_to_rgb(resize_yuv(frame, channels, width, height, roi))
        channels = "rgb"
    else:
        assert roi is None
        colours = resize(frame.reshape(*frame.shape[:2], -1), width, height)
    if channels == "gray":
        planes = [colours[..., 0]] * (1 if order == "gray" else 3)
    else:
        named = dict(zip(channels, np.moveaxis(colours, -1, 0)))
        luma = (77 * named["r"] + 150 * named["g"] + 29 * named["b"] + 128) // 256
        planes = [luma] if order == "gray" else [named[letter] for letter in order]
    mean, scale = np.float32(mean), np.float32(scale)
    return np.stack([(np.float32(p) - m) * s for p, m, s in zip(planes, mean, scale)])[None]


# --- Priors, decoding, NMS --------------------------------------------------------------------------------

STRIDES = (8, 16, 32, 64)
MIN_SIZES = ((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0))


def priors(width, height, *, strides=STRIDES, min_sizes=MIN_SIZES, grid="cell", clip=True):
    """Centre x, y and width, height of every prior, relative to the input, in float64."""
    found = []
    for stride, sizes in zip(strides, min_sizes):
        columns, rows = math.ceil(width / stride), math.ceil(height / stride)
        for j in range(rows):
            for i in range(columns):
                if grid == "cell":
                    x, y = (i + 0.5) / columns, (j + 0.5) / rows
                else:
                    x, y = (i + 0.5) * stride / width, (j + 0.5) * stride / height
                found += [(x, y, size / width, size / height) for size in sizes]
    found = np.array(found, np.float64)
    return np.clip(found, 0, 1) if clip else found


def core_spec(**changes):
    """The C++ core's spec of an Ultra-Light detector at 320 x 240, with changes."""
    values = {
        "width": 320,
        "height": 240,
        "channels": "rgb",
        "mean": (127.0, 127.0, 127.0),
        "scale": (1 / 128, 1 / 128, 1 / 128),
        "resize": "stretch",
        "strides": STRIDES,
        "min_sizes": MIN_SIZES,
        "grid": "cell",
        "clip": True,
        "variances": (0.1, 0.2),
        "scores": "scores",
        "boxes": "boxes",
        "landmarks": "",
        "encoding": "offsets",
        "activation": "none",
        "objectness": "",
    }
    assert set(changes) <= set(values)
    return _core.Spec(**{**values, **changes})


def decode_boxes(offsets, anchors, variances, width, height):
    """(N, 4) corners in input pixels and how far float32 arithmetic may be from them."""
    offsets, anchors = np.float64(offsets), np.float64(anchors)
    v_centre, v_size = np.float64(np.float32(variances))  # the core holds them as float32
    move = offsets[:, :2] * v_centre * anchors[:, 2:]
    centre = anchors[:, :2] + move
    exponent = offsets[:, 2:] * v_size
    size = anchors[:, 2:] * np.exp(exponent)
    pixels = np.array([width, height])
    corners = np.hstack([(centre - size / 2) * pixels, (centre + size / 2) * pixels])
    # Centre: two products and a sum. Size: the exponent's rounding is an absolute error of a logarithm, so a
    # relative one of the size; exp() itself is good to 2; the product 1. Then a sum and the scaling to pixels.
    lost = 3 * np.abs(move) + np.abs(anchors[:, :2]) + (np.abs(exponent) + 4) * size / 2
    lost = (lost + 3 * (np.abs(centre) + size / 2)) * pixels * ROUNDING
    return corners, np.hstack([lost, lost])


def encode_boxes(corners, anchors, variances, width, height):
    """The inverse: offsets of boxes in input pixels."""
    pixels = np.array([width, height])
    low, high = corners[:, :2] / pixels, corners[:, 2:] / pixels
    centre = ((low + high) / 2 - anchors[:, :2]) / (variances[0] * anchors[:, 2:])
    return np.hstack([centre, np.log((high - low) / anchors[:, 2:]) / variances[1]])


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


class TieError(Exception):
    """Two ways of rounding could decide differently: the input is no fair test."""


# An IoU of float32 boxes loses at most: 3 roundings for each of three areas, of which the union has 2 to
# add; it is at least half of what is added. 2 * (3 + 3 + 2) + 1 for the quotient; 64 is beyond that.
IOU_MARGIN = 64 * ROUNDING


def _exceeds(a, b, margin=IOU_MARGIN):
    if abs(a - b) < margin:
        raise TieError(f"{a} and {b} are too close to compare")
    return a > b


def nms(
    candidates,
    kind,
    iou_threshold,
    *,
    score_threshold=0.0,
    top_k=10**9,
    max_faces=10**9,
    margin=IOU_MARGIN,
):
    """Rows x1, y1, x2, y2, score, points... -> the kept ones, best first."""
    rest = [np.float64(row) for row in candidates]
    rest.sort(key=lambda row: -row[4])  # stable: equal scores stay in the order of their priors
    rest = rest[:top_k]
    kept = []
    while rest:
        best, *others = rest
        overlaps = [iou(best, other) for other in others]
        covered = [_exceeds(overlap, iou_threshold, margin) for overlap in overlaps]
        if kind == "blending":
            cluster = [best] + [row for row, is_covered in zip(others, covered) if is_covered]
            kept.append(np.average(cluster, axis=0, weights=np.exp([row[4] for row in cluster])))
        else:
            kept.append(best)
        if kind in ("hard", "blending"):
            rest = [row for row, is_covered in zip(others, covered) if not is_covered]
            continue
        for row, overlap, is_covered in zip(others, overlaps, covered):
            if kind == "soft-gaussian":
                row[4] *= math.exp(-(overlap**2) / 0.5)
            elif is_covered:
                row[4] *= 1 - overlap
        rest = [row for row in others if not _exceeds(score_threshold, row[4])]
        rest.sort(key=lambda row: -row[4])
    if kind == "blending":
        kept.sort(key=lambda row: -row[4])
    return np.array(kept[:max_faces]).reshape(-1, np.shape(candidates)[1])


# --- Networks ---------------------------------------------------------------------------------------------


# Of every leaky ReLU here: what RetinaFace has, and no float32 is.
SLOPE = 0.1


def _slope(activation):
    return SLOPE if activation == "leaky_relu" else 0.0


class Builder:
    """A Graph, node by node; a method returns the name of the value it makes."""

    def __init__(self, channels, height, width, seed=0):
        self.random = np.random.default_rng(seed)
        self.tensors = {"input": Tensor("input", (1, channels, height, width))}
        self.nodes = []

    def shape(self, name):
        return self.tensors[name].shape

    def node(self, op, *inputs, name=None):
        output = name or f"v{len(self.nodes)}"
        node = Node(op, f"node_{output}", inputs, output)
        shape = infer_shape(node, [self.shape(i) for i in inputs])
        self.nodes.append(node)
        self.tensors[output] = Tensor(output, shape)
        return output

    def constant(self, values):
        name = f"c{len(self.tensors)}"
        values = np.float32(values)
        self.tensors[name] = Tensor(name, values.shape, data=values)
        return name

    def conv(
        self,
        data,
        channels,
        kernel=1,
        *,
        stride=1,
        dilation=1,
        groups=1,
        pads=None,
        activation="none",
        bias=True,
        name=None,
    ):
        kernel, stride, dilation = (
            (v, v) if isinstance(v, int) else v for v in (kernel, stride, dilation)
        )
        if pads is None:  # as PyTorch's padding=dilation * (kernel // 2)
            pads = tuple(d * (k // 2) for k, d in zip(kernel, dilation)) * 2
        shape = (channels, self.shape(data)[1] // groups, *kernel)
        # Unit variance in, unit variance out: deep networks stay in range.
        weight = self.random.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        inputs = [data, self.constant(weight)]
        if bias:
            inputs.append(self.constant(self.random.normal(size=channels)))
        op = Conv(stride, dilation, pads, groups, activation, _slope(activation))
        return self.node(op, *inputs, name=name)

    def depthwise(self, data, kernel=3, **options):
        channels = self.shape(data)[1]
        return self.conv(data, channels, kernel, groups=channels, **options)

    def relu(self, data, name=None):
        return self.node(Relu(), data, name=name)

    def leaky_relu(self, data, name=None):
        return self.node(LeakyRelu(SLOPE), data, name=name)

    def sigmoid(self, data, name=None):
        return self.node(Sigmoid(), data, name=name)

    def max_pool(self, data, kernel=2, stride=2, pads=(0, 0, 0, 0), name=None):
        kernel, stride = ((v, v) if isinstance(v, int) else v for v in (kernel, stride))
        return self.node(MaxPool(kernel, stride, pads), data, name=name)

    def upsample(self, data, like, name=None):
        return self.node(Upsample(), data, like, name=name)

    def add(self, a, b, activation="none", name=None):
        return self.node(Add(activation, _slope(activation)), a, b, name=name)

    def concat(self, *values, axis=1, name=None):
        return self.node(Concat(axis), *values, name=name)

    def softmax(self, data, axis, name=None):
        return self.node(Softmax(axis), data, name=name)

    def rows(self, data, columns, name=None):
        """A head as every SSD exports it: channels last, then one row a prior."""
        last = self.node(Transpose((0, 2, 3, 1)), data)
        return self.node(Reshape((1, -1, columns)), last, name=name)

    def graph(self, *outputs):
        return Graph(tuple(self.nodes), dict(self.tensors), "input", outputs)


def _windows(data, op, kernel):
    """(1, C, H, W) -> (C, kernel height, kernel width, out height, out width)."""
    top, left, bottom, right = op.pads
    padded = np.pad(data[0], ((0, 0), (top, bottom), (left, right)))
    (sy, sx), (dy, dx) = op.stride, op.dilation
    rows = (padded.shape[1] - dy * (kernel[0] - 1) - 1) // sy + 1
    columns = (padded.shape[2] - dx * (kernel[1] - 1) - 1) // sx + 1
    return np.stack(
        [
            np.stack(
                [
                    padded[:, ky * dy : ky * dy + (rows - 1) * sy + 1 : sy, kx * dx :][
                        :, :, : (columns - 1) * sx + 1 : sx
                    ]
                    for kx in range(kernel[1])
                ],
                axis=1,
            )
            for ky in range(kernel[0])
        ],
        axis=1,
    )


def convolve(data, weight, op):
    """Without bias or activation."""
    windows = np.split(_windows(data, op, weight.shape[2:]), op.groups)
    weights = np.split(weight, op.groups)
    return np.concatenate([np.einsum("ockl,cklyx->oyx", w, x) for w, x in zip(weights, windows)])[
        None
    ]


def _activate(op, values, loss):
    """With how much is lost, which no activation makes more but by rounding what a slope gives."""
    if op.activation == "leaky_relu":
        return leaky_relu(values, op.slope, loss)
    low, high = {"none": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}[op.activation]
    return np.clip(values, low, high), loss


def leaky_relu(values, slope, loss):
    below = np.float64(np.float32(slope)) * values
    # Where the sign is in doubt, too, one side is slope times the other at least.
    rounded = np.where(values < loss, ROUNDING * (np.abs(below) + loss), 0)
    return np.where(values > 0, values, below), loss + rounded


def _conv(op, inputs, lost):
    data, weight = inputs[:2]
    bias = (inputs[2] if len(inputs) > 2 else np.zeros(len(weight))).reshape(1, -1, 1, 1)
    largest = np.abs(data) + lost[0]
    terms = math.prod(weight.shape[1:])
    # A sum of K products starting from the bias rounds every term at most K + 1 times, in any order.
    rounded = (terms + 1) * (convolve(largest, np.abs(weight), op) + np.abs(bias))
    if goes_by_winograd(op, data, weight):
        rounded = np.maximum(rounded, _winograd_roundings(op, largest, weight, bias))
    loss = convolve(lost[0], np.abs(weight), op) + ROUNDING * rounded
    return _activate(op, convolve(data, weight, op) + bias, loss)


def _winograd(points):
    """A, G and B of Winograd's F(N - 1, 3) by N points: A @ (G @ taps * B @ inputs) are N - 1 outputs.

    A polynomial of N - 1 terms times one of three, by its values at these points and at infinity, transposed.
    """
    points = np.array(points, np.float64)
    others = [points[points != point] for point in points]
    # The coefficients of the product of x - p, the lowest first; the last counts at infinity.
    by_points = [np.append(np.array(np.poly(other))[::-1], 0) for other in others]
    last = np.eye(len(points) + 1)[-1]
    divisors = np.array([[np.prod(p - other)] for p, other in zip(points, others)])
    of_outputs = np.vander(points, len(points) - 1, increasing=True)
    of_taps = np.vander(points, 3, increasing=True) / divisors
    return (
        np.vstack([of_outputs, last[2:]]).T,
        np.vstack([of_taps, last[-3:]]),
        np.vstack([*by_points, np.array(np.poly(points))[::-1]]),
    )


# F(4, 3), both ways.
WINOGRAD_A, WINOGRAD_G, WINOGRAD_B = _winograd([0, 0.625, -0.625, 1.5, -1.5])


def goes_by_winograd(op, data, weight):
    """Whether the engine may use it: wins_by_winograd() of steps_winograd.cpp, but for how large the image is."""
    square = weight.shape[2:] == (3, 3) and op.stride == op.dilation == (1, 1)
    return square and op.groups == 1 and data.shape[1] >= 16


def _winograd_roundings(op, largest, weight, bias):
    """How many ROUNDINGs an output may be off, times the magnitudes that they are of.

    A factor is at most 8 roundings off (down and across two fused multiply-adds, of two each where there is no
    instruction for them), a weight 1. A product's sum over all channels rounds every term once more than there are of
    them. An output takes them both ways through 5 more: a sum of two, and again two fused multiply-adds.
    """
    padded = np.pad(largest[0], ((0, 0), *zip(op.pads[:2], op.pads[2:])))
    channels, height, width = padded.shape
    down, across = -(-(height - 2) // 4), -(-(width - 2) // 4)
    padded = np.pad(padded, ((0, 0), (0, 4 * down + 2 - height), (0, 4 * across + 2 - width)))
    patches = np.stack(
        [
            [padded[:, r : r + 4 * down : 4, c : c + 4 * across : 4] for c in range(6)]
            for r in range(6)
        ]
    )
    gains, shares = np.abs(WINOGRAD_B), np.abs(WINOGRAD_A)
    factors = np.einsum("pr,qc,rckyx->pqkyx", gains, gains, patches)
    weights = np.einsum("pr,qc,okrc->pqok", WINOGRAD_G, WINOGRAD_G, weight.astype(np.float64))
    products = np.einsum("pqok,pqkyx->pqoyx", np.abs(weights), factors)
    sizes = np.einsum("ip,jq,pqoyx->oyixj", shares, shares, products)
    sizes = sizes.reshape(len(weight), 4 * down, 4 * across)[None, :, : height - 2, : width - 2]
    return (channels + 1 + 8 + 1 + 10) * (sizes + np.abs(bias))


def _add(op, inputs, lost):
    total, loss = inputs[0] + inputs[1], lost[0] + lost[1]
    return _activate(op, total, loss + ROUNDING * (np.abs(total) + loss))


def _softmax(op, inputs, lost):
    distance = inputs[0] - inputs[0].max(axis=op.axis, keepdims=True)
    values = np.exp(distance)
    values /= values.sum(axis=op.axis, keepdims=True)
    # An error d of the logits is a factor of at most exp(2 d). The subtraction rounds relative to the
    # distance; exp() is good to 2 roundings, the sum adds one for each of its terms, the quotient one; all of
    # it counts for the numerator and for the denominator. Below 2^-126 a value may become 0.
    shift = lost[0] + ROUNDING * (np.abs(distance) + 2 * lost[0])
    factor = 2 * shift.max(axis=op.axis, keepdims=True)
    factor = factor + 2 * (3 + inputs[0].shape[op.axis]) * ROUNDING
    # Never more than 1, which also keeps the bound of a hopeless softmax finite.
    return values, np.minimum(values * np.expm1(np.minimum(factor, 100)) + 2.0**-126, 1)


def _sigmoid(values, lost):
    made = np.exp(-np.logaddexp(0, -values))
    # As softmax over the value and 0: exact distances, each exp() good to 2 roundings, a sum, a quotient.
    factor = np.minimum(2 * lost + 2 * (3 + 2) * ROUNDING, 100)
    return made, np.minimum(made * np.expm1(factor) + 2.0**-126, 1)


def max_pool(op, data):
    """The largest of each window's values that are there."""
    shape = infer_shape(Node(op, "pool", ("x",), "y"), [data.shape])
    made = np.empty(shape, data.dtype)
    for y in range(shape[2]):
        for x in range(shape[3]):
            top, left = (at * s - p for at, s, p in zip((y, x), op.stride, op.pads))
            rows = slice(max(top, 0), top + op.kernel[0])
            columns = slice(max(left, 0), left + op.kernel[1])
            made[:, :, y, x] = data[:, :, rows, columns].max(axis=(2, 3))
    return made


def upsample(data, like):
    (height, width), (in_height, in_width) = like.shape[2:], data.shape[2:]
    rows = [y * in_height // height for y in range(height)]
    columns = [x * in_width // width for x in range(width)]
    return data[:, :, rows][:, :, :, columns]


def run_graph(graph, image):
    """name -> (value in float64, how far a float32 engine may be from it), for every value."""
    # Not np.float64(x), which in NumPy 2.0 makes a number of an array of one value.
    given = {graph.input: image, **{t.name: t.data for t in graph.constants}}
    values = {name: (np.asarray(x, np.float64), np.zeros(x.shape)) for name, x in given.items()}
    for node in graph.nodes:
        inputs, lost = zip(*(values[name] for name in node.inputs))
        op = node.op
        if isinstance(op, Conv):
            made = _conv(op, inputs, lost)
        elif isinstance(op, Add):
            made = _add(op, inputs, lost)
        elif isinstance(op, Softmax):
            made = _softmax(op, inputs, lost)
        elif isinstance(op, Relu):
            made = np.maximum(inputs[0], 0), lost[0]
        elif isinstance(op, LeakyRelu):
            made = leaky_relu(inputs[0], op.slope, lost[0])
        elif isinstance(op, Sigmoid):
            made = _sigmoid(inputs[0], lost[0])
        elif isinstance(op, MaxPool):  # two maxima are no further apart than two of the values
            made = max_pool(op, inputs[0]), max_pool(op, lost[0])
        elif isinstance(op, Upsample):
            made = upsample(*inputs), upsample(lost[0], inputs[1])
        elif isinstance(op, Concat):
            made = np.concatenate(inputs, op.axis), np.concatenate(lost, op.axis)
        elif isinstance(op, Transpose):
            made = inputs[0].transpose(op.order), lost[0].transpose(op.order)
        else:
            made = inputs[0].reshape(op.shape), lost[0].reshape(op.shape)
        values[node.output] = made
    return values


# --- A whole detector in little ---------------------------------------------------------------------------


def detector_graph(*, landmarks=False, channels=3, width=96, height=64, softmax=True, seed=5):
    """An SSD of two levels, strides 8 and 16, with random weights."""
    b = Builder(channels, height, width, seed)
    x = b.conv("input", 8, 3, stride=2, activation="relu")
    x = b.depthwise(x, stride=2, activation="relu")
    x = b.conv(x, 12, activation="relu")
    fine = b.conv(x, 12, 3, stride=2, activation="relu")
    coarse = b.conv(fine, 12, 3, stride=2, activation="relu")
    levels = [(fine, 2), (coarse, 1)]

    def head(columns, name, kernel=3):
        parts = [b.rows(b.conv(data, count * columns, kernel), columns) for data, count in levels]
        return b.concat(*parts, axis=1, name=name)

    scores = head(2, "logits" if softmax else "scores")
    if softmax:
        scores = b.softmax(scores, 2, name="scores")
    outputs = [scores, head(4, "boxes")]
    if landmarks:
        outputs.append(head(10, "landmarks", kernel=1))
    return b.graph(*outputs)


def detector_spec(graph, **changes):
    """What `detector_graph` was trained with, had it been; changes go to the part that has the field."""
    width, height = graph.input_size
    parts = {
        "input": {
            "name": graph.input,
            "width": width,
            "height": height,
            "channels": "rgb" if graph.tensors[graph.input].shape[1] == 3 else "gray",
            "mean": (127.0, 127.0, 127.0),
            "scale": (1 / 64, 1 / 64, 1 / 64),
            "resize": "stretch",
        },
        "priors": {
            "strides": (8, 16),
            "min_sizes": ((12.0, 20.0), (32.0,)),
            "grid": "cell",
            "clip": False,
            "variances": (0.1, 0.2),
        },
        "heads": {
            "scores": "scores",
            "boxes": "boxes",
            "landmarks": "landmarks" if "landmarks" in graph.outputs else None,
            "encoding": "offsets",
            "activation": "none"
            if any(isinstance(n.op, Softmax) for n in graph.nodes)
            else "softmax",
        },
        "": {"name": "little", "score_threshold": 0.6, "iou_threshold": 0.3},
    }
    for key, value in changes.items():
        [part] = [
            part
            for part, fields in parts.items()
            if key in fields and (part, key) != ("input", "name")
        ] or [""]
        parts[part][key] = value
    return ModelSpec(
        input=InputSpec(**parts["input"]),
        priors=PriorSpec(**parts["priors"]),
        heads=HeadSpec(**parts["heads"]),
        **parts[""],
    )


def picture(height=150, width=200, seed=0, channels=3):
    """Blobs of colour: unlike noise, it survives a resize."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (9, 12, channels), np.uint8)
    return np.ascontiguousarray(np.round(resize_float(small, width, height)), np.uint8)


# --- Quantised networks -----------------------------------------------------------------------------------

# No published engine makes -128.
STORED_RANGE = {"int8": (-127, 127), "uint8": (0, 255)}


def one_scale(scale, zero_point=0):
    return Quantization(np.float32([scale]), np.int32([zero_point]))


def pair(tensor):
    """Scale in float32 and zero point of a value, which has one of each."""
    [scale], [zero_point] = tensor.quantization.scale, tensor.quantization.zero_point
    return scale, int(zero_point)


def random_scale(random, dtype):
    """For values of about unit variance: some of them saturate."""
    low, high = STORED_RANGE[dtype]
    return one_scale(10 ** random.uniform(-2, -1.1), random.integers(low, high, endpoint=True))


def quantize_weight(weight, dtype):
    """A scale for every output channel in int8; one scale and a zero point in uint8."""
    if dtype == "int8":
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        zero_point = np.zeros(len(weight))
    else:
        least, most = min(weight.min(), 0), max(weight.max(), 0)
        scale = np.atleast_1d((most - least) / 255)
        zero_point = np.atleast_1d(np.rint(-least / scale[0]))
    found = Quantization(np.float32(np.maximum(scale, 1e-6)), np.int32(zero_point))
    steps = weight / found.scale[:, None, None, None] + found.zero_point[:, None, None, None]
    return np.clip(np.rint(steps), *STORED_RANGE[dtype]).astype(dtype), found


def quantize(graph, dtype, *, seed=0, scales=None, given=None):
    """A float graph in int8 or uint8, its weights rounded.

    Every value has a random scale and zero point: one of `scales` different ones, or one of its own; `given`
    ones may be named. What only chooses among values keeps those of what it reads.
    """
    random, given = np.random.default_rng(seed), dict(given or {})
    palette = [random_scale(random, dtype) for _ in range(scales or 0)]
    tensors = {}

    def add_value(name):
        drawn = palette[random.integers(len(palette))] if palette else random_scale(random, dtype)
        shape = graph.tensors[name].shape
        quantization = given.get(name, drawn)
        tensors[name] = Tensor(name, shape, np.dtype(dtype), quantization=quantization)

    def add_constant(name, values, quantization):
        tensors[name] = Tensor(name, values.shape, values.dtype, values, quantization)

    add_value(graph.input)
    for node in graph.nodes:
        if isinstance(node.op, (Transpose, Reshape, MaxPool, Upsample)):
            given[node.output] = tensors[node.inputs[0]].quantization
        add_value(node.output)
        if not isinstance(node.op, Conv):
            continue
        data, weight, *bias = node.inputs
        add_constant(weight, *quantize_weight(graph.tensors[weight].data, dtype))
        for name in bias:
            scale = pair(tensors[data])[0] * tensors[weight].quantization.scale
            stored = np.rint(graph.tensors[name].data / scale).astype(np.int32)
            add_constant(name, stored, Quantization(scale, np.zeros(scale.shape, np.int32)))
    return Graph(graph.nodes, tensors, graph.input, graph.outputs)


def quantized_pixels(values, tensor):
    """What preprocessing stores for real numbers."""
    (scale, zero_point), (low, high) = pair(tensor), STORED_RANGE[tensor.dtype.name]
    steps = np.clip(np.float32(values) / scale, low - zero_point, high - zero_point)
    return (np.rint(steps) + zero_point).astype(tensor.dtype)


def real(stored, tensor):
    scale, zero_point = pair(tensor)
    return np.float32(stored.astype(np.int64) - zero_point) * scale


def _stored(steps, tensor, activation="none", slope=0.0):
    """Steps of the output in float32 -> stored values: activated, clamped, rounded with halves to even."""
    if activation == "leaky_relu":
        steps, activation = np.maximum(steps, steps * np.float32(slope)), "none"
    assert steps.dtype == np.float32
    (scale, zero_point), (low, high) = pair(tensor), STORED_RANGE[tensor.dtype.name]
    least, most = low - zero_point, high - zero_point
    if activation != "none":
        least = max(least, 0)
    if activation == "relu6":
        most = min(most, np.rint(np.float32(6) / scale))
    return (np.rint(np.clip(steps, least, most)) + zero_point).astype(tensor.dtype)


def _quantized_conv(op, inputs, tensors, output):
    data, weight = (
        values.astype(np.int64)
        - tensor.quantization.zero_point.reshape(-1, *[1] * (values.ndim - 1))
        for values, tensor in zip(inputs[:2], tensors)
    )
    bias = inputs[2].astype(np.int64) if len(inputs) > 2 else np.zeros(len(weight), np.int64)
    total = convolve(data, weight, op) + bias.reshape(1, -1, 1, 1)
    assert np.abs(total).max() < 2**31
    weight_scale = np.broadcast_to(tensors[1].quantization.scale, len(weight))
    multiplier = pair(tensors[0])[0] * weight_scale / pair(output)[0]
    assert multiplier.dtype == np.float32
    steps = np.float32(total) * multiplier.reshape(1, -1, 1, 1)
    return _stored(steps, output, op.activation, op.slope)


def _rescaled(stored, tensor, output):
    """Steps of the output."""
    scale, zero_point = pair(tensor)
    return np.float32(stored.astype(np.int64) - zero_point) * (scale / pair(output)[0])


def exponentials(scale):
    """exp(-i * scale) in float32 for every difference of two stored values."""
    below = np.arange(256) * np.float64(scale)
    return np.where(below < 100, np.exp(-below), 0).astype(np.float32)


def _quantized_softmax(op, stored, tensor, output):
    values = np.moveaxis(stored.astype(np.int64), op.axis, 0)
    powers = exponentials(pair(tensor)[0])[values.max(axis=0) - values]
    total = np.zeros(values.shape[1:], np.float32)
    for power in powers:  # in order, each sum rounded
        total = total + power
    return _stored(np.moveaxis(powers / total / pair(output)[0], 0, op.axis), output)


def shares(values):
    """1 / (1 + exp(-x)) in float64, and then in float32."""
    above, below = np.exp(np.minimum(values, 0)), np.exp(np.minimum(-values, 0))
    return np.float32(above / (above + below))


def _quantized_sigmoid(stored, tensor, output):
    scale, zero_point = pair(tensor)
    values = (stored.astype(np.int64) - zero_point) * np.float64(scale)
    return _stored(shares(values) / pair(output)[0], output)


def run_quantized(graph, image):
    """name -> stored values, exactly as cpp/backends/native/network.h defines them, for every value."""
    values = {graph.input: image, **{tensor.name: tensor.data for tensor in graph.constants}}
    for node in graph.nodes:
        op, output = node.op, graph.tensors[node.output]
        inputs = [values[name] for name in node.inputs]
        tensors = [graph.tensors[name] for name in node.inputs]
        if isinstance(op, Conv):
            made = _quantized_conv(op, inputs, tensors, output)
        elif isinstance(op, Add):
            a, b = (_rescaled(*one, output) for one in zip(inputs, tensors))
            made = _stored(a + b, output, op.activation, op.slope)
        elif isinstance(op, Softmax):
            made = _quantized_softmax(op, inputs[0], tensors[0], output)
        elif isinstance(op, Relu):
            made = _stored(_rescaled(inputs[0], tensors[0], output), output, "relu")
        elif isinstance(op, LeakyRelu):
            steps = _rescaled(inputs[0], tensors[0], output)
            made = _stored(steps, output, "leaky_relu", op.slope)
        elif isinstance(op, Sigmoid):
            made = _quantized_sigmoid(inputs[0], tensors[0], output)
        elif isinstance(op, MaxPool):
            made = max_pool(op, inputs[0])
        elif isinstance(op, Upsample):
            made = upsample(*inputs)
        elif isinstance(op, Concat):
            parts = [_stored(_rescaled(*one, output), output) for one in zip(inputs, tensors)]
            made = np.concatenate(parts, op.axis)
        elif isinstance(op, Transpose):
            made = inputs[0].transpose(op.order)
        else:
            made = inputs[0].reshape(op.shape)
        values[node.output] = made
    return values
