"""What a training run is made of. A run is a short Python file with one of these, called `config`."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from .augment import Augmentation
from .networks import NETWORKS

_CONFIGS = Path(__file__).with_name("configs")


@dataclass(frozen=True)
class Stage:
    """A part of a run at one input size."""

    size: tuple[int, int]  # width, height
    epochs: float
    batch: int
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Distillation:
    """How a student follows its teacher; the teacher itself is given to the run."""

    scores: float = 1.0  # weights of the losses
    boxes: float = 1.0
    features: float = 0.0  # of what its heads look at; above 0 both need the same shapes of it
    temperature: float = 1.0
    confident: float = 0.3  # the teacher's score from which its boxes count
    spare: float = 0.5  # ... from which a prior without a face is no negative: labels miss some
    # Heads are the mean of what it says about the image and about its mirror image; features are the image's.
    mirror: bool = False


@dataclass(frozen=True)
class Config:
    """A training run. Losses and SGD are by default as in "Ultra-Light-Fast-Generic-Face-Detector-1MB".

    Its rate falls there by milestones, without warm-up, and its last weights are taken, not an average.
    """

    name: str  # of the model
    network: str  # slim | rfb | retinaface-mobilenet0.25 | retinaface-resnet50
    stages: tuple[Stage, ...]
    landmarks: bool = False
    # Of the arrays that learn, what their names begin with; the others, BatchNorms too, stay as the run began. Empty: all.
    learns: str = ""
    # Whether BatchNorms normalise by each batch, or all the time by what the run began with. A channel that is nearly
    # always still, and then far away, is another one in a batch without such an image: what goes on from a trained
    # network does better without.
    batch_statistics: bool = True

    optimizer: str = "sgd"  # sgd | adamw | muon (from PyTorch 2.9 on)
    learning_rate: float = 1e-2
    momentum: float = 0.9  # adamw: its first beta; muon: of what AdamW moves there
    weight_decay: float = 5e-4
    schedule: str = "cosine"  # cosine | milestones
    milestones: tuple[float, ...] = (95 / 200, 150 / 200)  # of the run; each divides the rate by 10
    warm_up: float = 0.02  # of the run
    ema: float = 0.998  # how much of the averaged weights stays each step; 0: no average
    clip: float = 10.0  # the gradient's norm; inf: not at all

    iou_threshold: float = 0.35
    negatives: float = 3.0  # for each positive, the hardest; inf: all
    box_weight: float = 1.0
    landmark_weight: float = 0.2
    distillation: Distillation = Distillation()

    # How often an image whose name contains the key is seen in an epoch; others once.
    repeat: dict[str, int] = field(default_factory=dict)
    held_out: float = 0.02  # share of the images that the run is judged on
    seed: int = 0
    precision: str = "float32"  # float32 | bfloat16: of most of the network, by autocast
    compile: bool = False  # a minute each size, then about twice the speed
    workers: int = 0  # processes that plan batches; for a GPU, which is faster than one
    checkpoint_minutes: float = 10.0  # also after each epoch
    licence: str = "MIT"
    training_data: str = (
        ""  # for the spec; `edgeface train run` says its files where this says nothing
    )

    def __post_init__(self) -> None:
        _one_of("network", self.network, NETWORKS)
        _one_of("optimizer", self.optimizer, ("sgd", "adamw", "muon"))
        _one_of("schedule", self.schedule, ("cosine", "milestones"))
        _one_of("precision", self.precision, ("float32", "bfloat16"))
        if not self.stages:
            raise ValueError("config: stages is empty")
        for stage in self.stages:
            if min(*stage.size, stage.batch) < 1 or not stage.epochs > 0:
                raise ValueError(f"config: a stage needs a size, epochs and a batch: {stage}")
        for name in ("held_out", "warm_up", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise _out_of_range(self, name, "0 to below 1")
        if not 0 < self.learning_rate < math.inf:
            raise _out_of_range(self, "learning_rate", "more than 0")
        if not self.clip > 0:
            raise _out_of_range(self, "clip", "more than 0; inf clips nothing")

    @property
    def kind(self) -> str:
        """Of network, as messages call it."""
        return f"{self.network} {'with' if self.landmarks else 'without'} landmarks"

    @property
    def size(self) -> tuple[int, int]:
        """Of the model's input: the last stage's."""
        return self.stages[-1].size


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"config: {name} is {value!r}; expected {' or '.join(known)}")


def _out_of_range(config: Config, name: str, expected: str) -> ValueError:
    return ValueError(f"config: {name} is {getattr(config, name)}; expected {expected}")


def bundled() -> list[str]:
    """Names of the runs that come with edgeface."""
    return sorted(path.stem for path in _CONFIGS.glob("*.py") if path.stem != "__init__")


def load(name: str) -> Config:
    """The run in that Python file, or the bundled one of that name. The file is executed.

    Raises:
        ValueError: There is no such file, or it has no `config`.
    """
    path = _CONFIGS / f"{name}.py" if name in bundled() else Path(name)
    if not path.is_file():
        raise ValueError(f"{name}: no such file, and bundled are {', '.join(bundled())}")
    found = runpy.run_path(str(path)).get("config")
    if not isinstance(found, Config):
        raise ValueError(  # noqa: TRY004  a wrong file, not a wrong argument
            f"{path}: expected `config = Config(...)` in it, found {found!r:.60}"
        )
    return found


def override(config: Config, text: str) -> Config:
    """The run with one value changed: "seed=3", "distillation.boxes=0", "stages.0.batch=64".

    Raises:
        ValueError: There is no such value, or it has another type.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r}: expected KEY=VALUE")
    changed = _replaced(config, Config, key.split("."), value, key)
    assert isinstance(changed, Config)
    return changed


def _replaced(owner: Any, kind: Any, path: list[str], text: str, key: str) -> Any:
    """`owner`, which is annotated as `kind`, with what is at `path` in it from `text`."""
    if not path:
        return _parsed(kind, text, key)
    first, rest = path[0], path[1:]
    if isinstance(owner, tuple) and re.fullmatch("[0-9]{1,4}", first) and int(first) < len(owner):
        at = int(first)
        new = _replaced(owner[at], get_args(kind)[0], rest, text, key)
        return (*owner[:at], new, *owner[at + 1 :])
    kinds = get_type_hints(type(owner)) if dataclasses.is_dataclass(owner) else {}
    if first not in kinds:
        known = ", ".join(f.name for f in dataclasses.fields(Config))
        raise ValueError(f"config has no {key!r}; it has {known}")
    new = _replaced(getattr(owner, first), kinds[first], rest, text, key)
    return dataclasses.replace(owner, **{first: new})


def _parsed(kind: Any, text: str, key: str) -> Any:
    """`text` as such a value: where a float belongs, a run may have been written with an int."""
    if kind is str:
        return text
    try:
        value = float(text) if kind is float else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if not _is(value, kind):
        # "tuple[int, int]" says more than tuple, and "int" more than "<class 'int'>".
        expected = str(kind) if get_args(kind) else kind.__name__
        raise ValueError(f"config: {key}={text}: expected {expected.replace(f'{__name__}.', '')}")
    return value


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind, and what is in it."""
    kinds = get_args(kind)
    if not kinds:
        return type(value) is kind or (kind is float and type(value) is int)
    if type(value) is not get_origin(kind):
        return False
    if isinstance(value, dict):
        return all(_is(part, of) for pair in value.items() for part, of in zip(pair, kinds))
    if kinds[-1] is ...:
        return all(_is(part, kinds[0]) for part in value)
    return len(value) == len(kinds) and all(map(_is, value, kinds))


def to_dict(config: Config) -> dict[str, Any]:
    """Of plain values, for a checkpoint."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; `values` stay as they are."""
    stages = tuple(
        Stage(**{**stage, "augmentation": Augmentation(**stage["augmentation"])})
        for stage in values["stages"]
    )
    distillation = Distillation(**values["distillation"])
    return Config(**{**values, "stages": stages, "distillation": distillation})
