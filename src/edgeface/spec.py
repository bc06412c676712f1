"""What a model was trained with: read beside the model file, checked, written; never guessed."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, Optional

from .errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("rgb", "bgr", "gray")
RESIZES = ("stretch", "letterbox")
GRIDS = ("cell", "stride", "corner")
ENCODINGS = ("offsets", "corners")
ACTIVATIONS = ("none", "softmax")
ROLES = ("scores", "boxes", "landmarks", "objectness")
# Of an input's width and height, and so of a stride.
MAX_SIZE = 1 << 14
MAX_FLOAT = 3.4e38
MAX_FILE_BYTES = 1 << 20  # a written spec has about 1200

# Annotations of the dataclasses are read at run time, so they are spelled as Python 3.9 evaluates them.


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ModelError(message)


def _one_of(value: str, allowed: tuple[str, ...], name: str) -> None:
    _require(value in allowed, f"spec: {name} is {value!r}; expected one of {', '.join(allowed)}")


def _finite(values: tuple[float, ...], name: str) -> None:
    fit = all(math.isfinite(v) and abs(v) <= MAX_FLOAT for v in values)
    _require(fit, f"spec: {name} {values} must be finite in float32")


@dataclass(frozen=True)
class InputSpec:
    """The network's input tensor and what was done to an image to fill it."""

    name: str
    width: int
    height: int
    channels: str  # rgb | bgr | gray
    mean: tuple[float, float, float]  # (pixel - mean) * scale, pixel in 0..255
    scale: tuple[float, float, float]
    resize: str  # stretch | letterbox

    def __post_init__(self) -> None:
        size = f"{self.width}x{self.height}"
        _require(min(self.width, self.height) >= 1, f"spec: input size {size} is not positive")
        largest = f"spec: input size {size} is beyond {MAX_SIZE}"
        _require(max(self.width, self.height) <= MAX_SIZE, largest)
        _one_of(self.channels, CHANNELS, "input.channels")
        _one_of(self.resize, RESIZES, "input.resize")
        _finite(self.mean, "input.mean")
        _finite(self.scale, "input.scale")


@dataclass(frozen=True)
class PriorSpec:
    """The boxes that the regression is relative to: one list of min_sizes (input pixels) a stride.

    On the grid "corner" they are points: their sizes are units of the regression and say nothing of faces.
    """

    strides: tuple[int, ...]
    min_sizes: tuple[tuple[float, ...], ...]
    # cell: centre (j + 0.5) / columns; stride: (j + 0.5) * stride / width; corner: j * stride / width
    grid: str
    clip: bool
    variances: tuple[float, float]  # of the centre, of the size

    def __post_init__(self) -> None:
        _require(len(self.strides) >= 1, "spec: priors.strides is empty")
        fit = all(1 <= stride <= MAX_SIZE for stride in self.strides)
        _require(fit, f"spec: strides {self.strides} start at 1 and end at {MAX_SIZE}")
        lists = len(self.min_sizes)
        expected = f"spec: {lists} lists of min_sizes for {len(self.strides)} strides"
        _require(lists == len(self.strides), expected)
        for sizes in self.min_sizes:
            _require(bool(sizes), "spec: a level has no min_sizes")
            _finite(sizes, "priors.min_sizes")
            _require(min(sizes) > 0, f"spec: min_sizes {sizes} must be positive")
        _one_of(self.grid, GRIDS, "priors.grid")
        _finite(self.variances, "priors.variances")

    @property
    def are_points(self) -> bool:
        return self.grid == "corner"

    def count(self, width: int, height: int) -> int:
        """Number of priors, and so of rows in every head, at that input size."""
        return sum(self.level_counts(width, height))

    def level_counts(self, width: int, height: int) -> tuple[int, ...]:
        """The same of each level."""
        return tuple(
            len(sizes) * -(-width // stride) * -(-height // stride)
            for stride, sizes in zip(self.strides, self.min_sizes)
        )


@dataclass(frozen=True)
class HeadSpec:
    """The network's outputs, each with a row for every prior.

    A name with {stride} in it stands for an output a level, in the order of the strides; they are joined when
    the model is opened.
    """

    scores: str
    boxes: str
    landmarks: Optional[str]  # None: the model has none
    encoding: str  # offsets: relative to the priors; corners: x1, y1, x2, y2 relative to the input
    activation: str  # what still has to be applied to the scores: softmax for logits, else none
    objectness: Optional[str] = None  # the score is the root of the product with it; None: as it is

    @property
    def roles(self) -> Dict[str, str]:
        """The names of the outputs that there are, by what they are."""
        names = {role: getattr(self, role) for role in ROLES}
        return {role: name for role, name in names.items() if name is not None}

    def __post_init__(self) -> None:
        _one_of(self.encoding, ENCODINGS, "heads.encoding")
        _one_of(self.activation, ACTIVATIONS, "heads.activation")


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model that its network does not say."""

    name: str
    input: InputSpec
    priors: PriorSpec
    heads: HeadSpec
    score_threshold: float
    iou_threshold: float
    sha256: Optional[str] = None  # of the model file; checked when it is opened
    licence: Optional[str] = None
    training_data: Optional[str] = None
    ap: Dict[str, float] = field(
        default_factory=dict
    )  # easy, medium, hard and the protocol's figures

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"spec: {name} is {value}; expected 0 to 1")

    def resized(self, width: int, height: int) -> ModelSpec:
        """The same model at another input size."""
        return dataclasses.replace(
            self, input=dataclasses.replace(self.input, width=width, height=height)
        )


def from_json(text: str) -> ModelSpec:
    """ModelError names the key that is missing, unknown or of the wrong type."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        raise ModelError(f"spec: not JSON: {error}") from None
    spec = _build(ModelSpec, values, "spec")
    assert isinstance(spec, ModelSpec)
    return spec


def to_json(spec: ModelSpec) -> str:
    return json.dumps(dataclasses.asdict(spec), indent=2) + "\n"


def read(path: Path) -> ModelSpec:
    """The spec in that file; ModelError names the file."""
    size = path.stat().st_size
    _require(size <= MAX_FILE_BYTES, f"{path}: {size} bytes; expected at most {MAX_FILE_BYTES}")
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (ModelError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: {error}") from None


def _build(cls: type, values: Any, where: str) -> object:
    """A dataclass from JSON, every key and type checked against its annotations."""
    _require(
        isinstance(values, dict), f"{where}: expected an object with keys, found {values!r:.60}"
    )
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    _require(not unknown, f"{where}: unknown key {', '.join(map(repr, unknown))}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    _require(not missing, f"{where}: missing key {', '.join(map(repr, missing))}")
    types = typing.get_type_hints(cls)
    return cls(
        **{key: _value(types[key], value, f"{where}.{key}") for key, value in values.items()}
    )


def _value(kind: Any, value: Any, where: str) -> Any:
    """One JSON value as the annotation wants it: lists become tuples, whole numbers floats."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast("type", kind), value, where)
    if origin is typing.Union:
        return None if value is None else _value(arguments[0], value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        _require(isinstance(value, dict), f"{where}: expected an object, found {value!r:.60}")
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    accepted = (int, float) if kind is float else (kind,)
    fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    _require(fits, f"{where}: expected {kind.__name__}, found {value!r:.60}")
    try:
        return kind(value)
    except OverflowError:
        raise ModelError(f"{where}: {value!r:.60} is too large") from None


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _require(isinstance(value, list), f"{where}: expected a list, found {value!r:.60}")
    if arguments[-1] is Ellipsis:
        kinds = [arguments[0]] * len(value)
    else:
        kinds = list(arguments)
        expected = f"{where}: expected {len(kinds)} values, found {len(value)}"
        _require(len(value) == len(kinds), expected)
    return tuple(
        _value(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value))
    )
