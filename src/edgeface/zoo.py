"""Published models that bring no spec: what they were trained with, and how to tell them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import heads
from .errors import ModelError
from .graph import Softmax
from .spec import HeadSpec, InputSpec, ModelSpec, PriorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .graph import Graph


@dataclass(frozen=True)
class Published:
    """A released file, byte for byte."""

    name: str  # of the model; one may be released in several files
    file: str
    sha256: str
    family: str
    size: tuple[int, int]  # width, height of the input; weights alone do not know it
    source: str  # the project that released it
    licence: str
    training_data: str
    ap: Mapping[str, float]  # on all of WIDER FACE val as that project publishes it
    protocol: str  # of that, how images were fitted
    slope: float | None = None  # of leaky ReLUs in weights, where not the usual one


# Images of WIDER FACE val.
AP_IMAGES = 3226

# Ultra-Light's strides and min_sizes. The variants with landmarks kept them, but not how priors are placed.
_STRIDES = (8, 16, 32, 64)
_MIN_SIZES = ((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0))


def ultraface(graph: Graph) -> ModelSpec:
    """Ultra-Light (slim and RFB): the constants of its training code, for this network's input size.

    Its boxes are stretched to the input, its prior centres spread over each level's cells, and
    priors are clipped to the image. Published ports use other centres; the weights do not fit those.
    """
    width, height = graph.input_size
    return ModelSpec(
        name="ultraface",
        input=InputSpec(
            name=graph.input,
            width=width,
            height=height,
            channels="rgb",
            mean=(127.0, 127.0, 127.0),
            scale=(1 / 128, 1 / 128, 1 / 128),
            resize="stretch",
        ),
        priors=PriorSpec(
            strides=_STRIDES,
            min_sizes=_MIN_SIZES,
            grid="cell",
            clip=True,
            variances=(0.1, 0.2),
        ),
        heads=_heads(graph, landmarks=None),
        score_threshold=0.7,
        iou_threshold=0.3,
    )


def ultraface_landmark(graph: Graph) -> ModelSpec:
    """Slim and RFB with five landmarks: the constants of Face-Detector-1MB-with-landmark.

    Unlike Ultra-Light's: BGR about a mean without a scale, the ratio of the sides kept (it trains on
    square crops filled up with the mean), prior centres on the stride's grid, nothing clipped. The
    thresholds are those of its detect.py.
    """
    width, height = graph.input_size
    return ModelSpec(
        name="ultraface-landmark",
        input=InputSpec(
            name=graph.input,
            width=width,
            height=height,
            channels="bgr",
            mean=(104.0, 117.0, 123.0),
            scale=(1.0, 1.0, 1.0),
            resize="letterbox",
        ),
        priors=PriorSpec(
            strides=_STRIDES,
            min_sizes=_MIN_SIZES,
            grid="stride",
            clip=False,
            variances=(0.1, 0.2),
        ),
        heads=_heads(graph, landmarks="landmarks"),
        score_threshold=0.6,
        iou_threshold=0.4,
    )


def retinaface(graph: Graph) -> ModelSpec:
    """RetinaFace: the constants of Pytorch_Retinaface, for both of its backbones.

    Input and grid are as of `ultraface_landmark`, which descends from it. The thresholds are those of its
    detect.py.
    """
    spec = ultraface_landmark(graph)
    return dataclasses.replace(
        spec,
        name="retinaface",
        priors=dataclasses.replace(
            spec.priors,
            strides=(8, 16, 32),
            min_sizes=((16.0, 32.0), (64.0, 128.0), (256.0, 512.0)),
        ),
    )


def retinaface_320(graph: Graph) -> ModelSpec:
    """RetinaFace as Face-Detector-1MB-with-landmark trained it: for inputs half as large, and their faces."""
    spec = retinaface(graph)
    sizes = ((10.0, 20.0), (32.0, 64.0), (128.0, 256.0))
    return dataclasses.replace(
        spec, name="retinaface-320", priors=dataclasses.replace(spec.priors, min_sizes=sizes)
    )


def yunet(graph: Graph) -> ModelSpec:
    """YuNet: the constants of libfacedetection.train, and the thresholds of OpenCV's FaceDetectorYN.

    Its priors are points, the corners of the cells; offsets are in strides. Four heads a level, of which two make
    the score; all of them end in what they mean. The eye on the left in the image comes first, as here.
    """
    width, height = graph.input_size
    return ModelSpec(
        name="yunet",
        input=InputSpec(
            name=graph.input,
            width=width,
            height=height,
            channels="bgr",
            mean=(0.0, 0.0, 0.0),
            scale=(1.0, 1.0, 1.0),
            resize="letterbox",
        ),
        priors=PriorSpec(
            strides=(8, 16, 32),
            min_sizes=((8.0,), (16.0,), (32.0,)),
            grid="corner",
            clip=False,
            variances=(1.0, 1.0),
        ),
        heads=HeadSpec(
            scores="cls_{stride}",
            boxes="bbox_{stride}",
            landmarks="kps_{stride}",
            encoding="offsets",
            activation="none",
            objectness="obj_{stride}",
        ),
        score_threshold=0.9,
        iou_threshold=0.3,
    )


_SPECS: dict[str, Callable[[Graph], ModelSpec]] = {
    "ultraface": ultraface,
    "ultraface-landmark": ultraface_landmark,
    "retinaface": retinaface,
    "retinaface-320": retinaface_320,
    "yunet": yunet,
}
FAMILIES = tuple(_SPECS)


def family_spec(family: str, graph: Graph) -> ModelSpec:
    """The spec that a network of that family has; ValueError for a family that is not known."""
    if family not in _SPECS:
        raise ValueError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    return _SPECS[family](graph)


def published_spec(published: Published, graph: Graph) -> ModelSpec:
    """The spec of that file, with what only its release says."""
    return dataclasses.replace(
        family_spec(published.family, graph),
        name=published.name,
        licence=published.licence,
        training_data=published.training_data,
        ap=dict(published.ap),
    )


def recognised(graph: Graph) -> ModelSpec | None:
    """The spec of a published network, told by its outputs' names and exact shapes, or None.

    Families with the same outputs cannot be told apart: then it is the first, RetinaFace as first published.
    """
    for make in _SPECS.values():
        spec = make(graph)
        try:
            whole = heads.joined(graph, spec)
        except ModelError:  # it lacks a level
            continue
        found = {name: whole.tensors[name].shape for name in whole.outputs}
        if found == heads.shapes(spec) and whole.tensors[whole.input].shape[1] == 3:
            return spec
    return None


def known(sha256: str) -> Published | None:
    """The released file with that digest, in hexadecimal, or None."""
    return _BY_SHA256.get(sha256)


def _heads(graph: Graph, landmarks: str | None) -> HeadSpec:
    return HeadSpec(
        scores="scores",
        boxes="boxes",
        landmarks=landmarks,
        encoding="offsets",
        activation="none" if _ends_in_softmax(graph, "scores") else "softmax",
    )


def _ends_in_softmax(graph: Graph, output: str) -> bool:
    return any(isinstance(node.op, Softmax) for node in graph.nodes if node.output == output)


# --- The released files ----------------------------------------------------------------------------


def _released(files: dict[str, str], **facts: Any) -> tuple[Published, ...]:
    """One model, in files of these names and digests."""
    return tuple(Published(file=file, sha256=sha256, **facts) for file, sha256 in files.items())


def _ap(easy: float, medium: float, hard: float) -> dict[str, float]:
    return {"easy": easy, "medium": medium, "hard": hard}


_ULTRA_LIGHT = {
    "family": "ultraface",
    "source": "https://github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB",
    "licence": "MIT",
    "training_data": "WIDER FACE",
    "protocol": "stretched to the input size",
}
_WITH_LANDMARKS = {
    "source": "https://github.com/biubug6/Face-Detector-1MB-with-landmark",
    "licence": "MIT",
    "training_data": "WIDER FACE",
    "protocol": "long side scaled to 320",
}
_YUNET = {
    "family": "yunet",
    "size": (320, 320),
    "source": "https://github.com/ShiqiYu/libfacedetection.train",
    "licence": "BSD-3-Clause",
    "training_data": "WIDER FACE",
    "ap": _ap(0.892, 0.883, 0.811),
    "protocol": "original size",
}

MODELS: tuple[Published, ...] = (
    *_released(
        {
            "version-slim-320.pth": "cd24abce45da5dbc7cfd8167cd3d5f955382dfc9d9ae9459f0026abd3c2e38a4",
            "version-slim-320.onnx": "e9adbd0f920ddcce9368434c4d34d72520dc0c19b526fd44b4ef49bde2c3b1a8",
            "version-slim-320_simplified.onnx": "0863d8fedffb8692c3fef345193c7befc9b513a66ac4ff87bdecf47452fa272f",
        },
        name="version-slim-320",
        size=(320, 240),
        ap=_ap(0.770, 0.671, 0.395),
        **_ULTRA_LIGHT,
    ),
    *_released(
        {
            "version-RFB-320.pth": "c722b4427cc71642768baef6e15c659931b56f07425e5d2b0ec033ad41b145b3",
            "version-RFB-320.onnx": "34cd7e60aeff28744c657de7a3dc64e872d506741de66987f3426f2b79f88017",
            "version-RFB-320_simplified.onnx": "faf6740b495e8b9508e6fda11e8c0368bbdde01143e8f0a3e511d0892c4d794e",
            "version-RFB-320_without_postprocessing.onnx": "d7c687949526065ab6a192fdf993360045ce27b0fabf7c9fca5c2437b786b495",
        },
        name="version-RFB-320",
        size=(320, 240),
        ap=_ap(0.787, 0.698, 0.438),
        **_ULTRA_LIGHT,
    ),
    *_released(
        {
            "version-slim-640.pth": "02ca778098127c46d2b2680f1c398c7b993c12a424e94c34e6d608beb73481e4"
        },
        name="version-slim-640",
        size=(640, 480),
        ap=_ap(0.853, 0.819, 0.539),
        **_ULTRA_LIGHT,
    ),
    *_released(
        {
            "version-RFB-640.pth": "bf34512b1a93dc234178e8a701ecf25c6afddf335a3226accf62982536e160b5",
            "version-RFB-640.onnx": "8f4c659275977e7a3bfbfa339a9c769ad793df50f9c0baa8c14b11baa1646430",
        },
        name="version-RFB-640",
        size=(640, 480),
        ap=_ap(0.855, 0.822, 0.579),
        **_ULTRA_LIGHT,
    ),
    *_released(
        {"slim_Final.pth": "76cdb587b2cf5f91b3836b66a652a0f7a91891758cd4fb0b07e4b7527af1c651"},
        name="slim-landmark",
        family="ultraface-landmark",
        size=(320, 240),
        ap=_ap(0.795, 0.683, 0.345),
        **_WITH_LANDMARKS,
    ),
    *_released(
        {"RBF_Final.pth": "b22c45855bff5c4eb84e9973e2ee8a980639aa194ec66f33a87ce712f9d44c28"},
        name="RFB-landmark",
        family="ultraface-landmark",
        size=(320, 240),
        ap=_ap(0.814, 0.710, 0.363),
        **_WITH_LANDMARKS,
    ),
    *_released(
        {
            "mobilenet0.25_Final.pth": "ed6fa7d45a5179f03cb5ce82c73b0c6711372968e53782e88395acee88d319e1"
        },
        name="retinaface-mobilenet0.25-320",
        family="retinaface-320",
        size=(320, 240),
        # No file says so but its BatchNorms: on 96 photographs of WIDER FACE, variances in front of those in the
        # context modules are off by 13 % (root mean square) from what they remember; with a slope of 0.1, by 40 %.
        slope=0.0,
        ap=_ap(0.811, 0.697, 0.376),
        **_WITH_LANDMARKS,
    ),
    *_released(
        {
            "mobilenet0.25_Final.pth": "38ec7bb3c9cbfe2f40edabc05fab970a6d648747cbc534092be85d5eb9b37ed0"
        },
        name="retinaface-mobilenet0.25",
        family="retinaface",
        size=(640, 640),
        source="https://github.com/biubug6/Pytorch_Retinaface",
        licence="MIT",
        training_data="WIDER FACE, on a backbone trained on ImageNet",
        ap=_ap(0.907, 0.8816, 0.7382),
        protocol="original size",
    ),
    *_released(
        {
            "yunet_n_320_320.onnx": "81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2",
            "yunet_n_dynamic.onnx": "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
        },
        name="yunet_n",
        **_YUNET,
    ),
)

_BY_SHA256 = {published.sha256: published for published in MODELS}
