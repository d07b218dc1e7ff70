"""The typed config of a run, read once at the start of training.

configs/*.py explain the fields, and the command line overrides them. This file defines
their types, and the defaults of optional fields.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import settings
from lightbsr_jax.methods import recipe
from lightbsr_jax.models.checkpoint import plain
from lightbsr_jax.spec import KINDS, ModelSpec, is_of

_T = TypeVar("_T")


@dataclass(frozen=True)
class Degradation:
    width_max: float


@dataclass(frozen=True)
class Data:
    hr: str
    resident: bool
    batch_size: int
    lr_crop: int
    threads: int
    lr: str = ""  # of real pairs
    paired_share: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """Common fields of all schedules."""

    steps_per_epoch: int
    stage1_epochs: int
    stage1_learning_rate: float
    stage2_epochs: int
    learning_rate: float

    @property
    def boundary(self) -> int:
        """The last step of stage 1."""
        return self.stage1_epochs * self.steps_per_epoch

    @property
    def total(self) -> int:
        """The last step of the run."""
        return self.boundary + self.stage2_epochs * self.steps_per_epoch

    def epochs(self, stage: int) -> int:
        return self.stage1_epochs if stage == 1 else self.stage2_epochs


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    warmup_epochs: int
    final_learning_rate: float
    cooldown_epochs: int | None = None  # after a plateau, instead of the cosine


@dataclass(frozen=True)
class SteppedSchedule(Schedule):
    stage1_decay_epochs: int
    stage1_decay: float
    decay_epochs: int
    decay: float


@dataclass(frozen=True)
class Compute:
    dtype: str
    rematerialise: bool
    parts: int


@dataclass(frozen=True)
class Validation:
    hr: str
    every_steps: int
    images: int
    pictures: int
    lr: str = ""  # of real pairs
    sr: bool = False


@dataclass(frozen=True)
class Log:
    every_steps: int


@dataclass(frozen=True)
class Checkpoint:
    every_steps: int
    keep: int
    keep_every_steps: int = 0  # 0: none of the older ones
    best: bool = True


@dataclass(frozen=True)
class Contrast(recipe.Contrast):
    crops: int
    queue_size: int
    enabled: bool = True


@dataclass(frozen=True)
class Distillation(recipe.Distillation):
    teacher: str


@dataclass(frozen=True)
class Adversarial(recipe.Adversarial):
    features: int  # of the discriminator
    perceptual: str = ""  # file with torchvision's VGG19; empty: no perceptual loss
    focal_frequency_weight: float = 0.0
    ms_ssim_weight: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """The config of a run: its network (`model`) and its training."""

    model: ModelSpec
    seed: int
    degradation: Degradation
    data: Data
    schedule: CosineSchedule | SteppedSchedule
    minutes: float
    adam: recipe.Adam
    ema_decay: float
    skipped_in_a_row: int
    compute: Compute
    validation: Validation
    log: Log
    checkpoint: Checkpoint
    as_given: Mapping[str, Any]  # all fields as in config.json, JSON types only
    contrast: Contrast | None = None
    distillation: Distillation | None = None
    adversarial: Adversarial | None = None
    init: str = ""  # weights to start from
    start: str = "random"
    optimizer: str = "adam"
    pixel_loss: str = "l1"
    gradient_clip: float = 0.0  # largest norm of all gradients; 0: no limit

    @classmethod
    def from_flags(cls, config: ConfigDict) -> "TrainingConfig":
        """Converts the config of a preset and its flags.

        Raises UserError if a field is missing or unknown, or if there is no such model.
        """
        values = plain(config)
        if "setting" in values:
            values["setting"] = settings.of_config(values["setting"])
        own = {f.name for f in dataclasses.fields(cls)}
        of_model = {f.name for f in dataclasses.fields(ModelSpec)}
        groups = {k: v for k, v in values.items() if k in own or k not in of_model}
        groups["schedule"] = schedule_of(values.get("schedule", {}))
        model = ModelSpec.from_config(values, "config")
        return _read(cls, {**groups, "model": model, "as_given": values}, "config")

    @property
    def crops(self) -> int:
        """Number of crops of each image of a batch."""
        return 1 if self.contrast is None else self.contrast.crops

    @property
    def hr_crop(self) -> int:
        """The side of a crop in HR pixels."""
        return self.data.lr_crop * self.model.scale

    @property
    def contrasts(self) -> bool:
        """True for contrastive training, unless an ablation switches it off."""
        return self.contrast is not None and self.contrast.enabled

    def with_value(self, group: str, field: str, value: Any) -> "TrainingConfig":
        """A copy with another value of a group's field, also in `as_given`."""
        given = {**self.as_given, group: {**self.as_given[group], field: value}}
        changed = dataclasses.replace(getattr(self, group), **{field: value})
        return dataclasses.replace(self, **{group: changed, "as_given": given})


def init_of(values: Mapping[str, Any]) -> str:
    """The initial weights of a run, from its config.json; empty for none."""
    return values.get("init", "")


def planned_updates(values: Mapping[str, Any]) -> int | None:
    """The updates that a config.json asks for; None where it has no schedule."""
    if "schedule" not in values:
        return None
    return schedule_of(values["schedule"]).total


def schedule_of(values: Mapping[str, Any]) -> CosineSchedule | SteppedSchedule:
    """The schedule of a config's group. Raises UserError as `_read` does."""
    if not isinstance(values, Mapping):
        raise UserError(f"config.schedule {values!r} is not a group of fields")
    kind = SteppedSchedule if "decay_epochs" in values else CosineSchedule
    return _read(kind, values, "config.schedule")


def _read(kind: type[_T], values: Mapping[str, Any], path: str) -> _T:
    """Makes a dataclass of a mapping, and of its fields that are dataclasses.

    Raises UserError for missing and unknown fields, and for values of a wrong type.
    """
    hints = get_type_hints(kind)
    fields: Any = kind
    required = {
        f.name for f in dataclasses.fields(fields) if f.default is dataclasses.MISSING
    }
    for problem, names in {
        "is missing": required - values.keys(),
        "is unknown to training": values.keys() - hints.keys(),
    }.items():
        if names:
            raise UserError(f"{path}.{min(names)} {problem}")
    return kind(
        **{
            name: _value(hints[name], value, f"{path}.{name}")
            for name, value in values.items()
        }
    )


def _value(hint: Any, value: Any, path: str) -> Any:
    """The value of a field of that type. Raises UserError if it has another one."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    groups: list[Any] = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if groups and isinstance(value, Mapping):
        return _read(groups[0], value, path)
    if groups and not isinstance(value, kinds):
        raise UserError(f"{path} {value!r} is not a group of fields")
    named = [kind for kind in kinds if kind in KINDS]
    if named and not any(is_of(value, kind) for kind in kinds):
        raise UserError(f"{path} {value!r} is {KINDS[named[0]]}")
    return value
