"""What a run trains and what a network is: typed, made once from a config.

Configs are nested mappings: the ConfigDict of a training run, or the JSON that
checkpoints and files of weights carry. This is the only place that reads the fields
below out of one, and the only one that knows the values of fields that a config may
leave out.
"""

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax import Array

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import prior, settings
from lightbsr_jax.imaging.settings import Setting
from lightbsr_jax.methods import network as blind
from lightbsr_jax.methods.network import UPSCALER_STEPS, BlindNetwork
from lightbsr_jax.methods.registry import METHODS, Method

Tree = dict[str, Any]

DEFAULT_METHOD = "lightbsr"
CONTRASTED = ("estimator", "projector")  # what a momentum branch has a copy of
# Fields of a network that say how it computes, not what.
_OPTIONS = ("scale", "axis_name", "remat", "dtype", "parent", "name")


class Config(Protocol):
    """A mapping, or an ml_collections ConfigDict, which is none."""

    def __getitem__(self, key: str, /) -> Any: ...

    def __contains__(self, key: str, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class Sees(enum.Enum):
    """What an estimator sees beside the LR image; values are `Method.privileged`'s."""

    NOTHING = None
    PRIOR = "prior"  # the vector of the true degradation
    HIGH_RESOLUTION = "hr"  # the HR image


@dataclass(frozen=True)
class ModelSpec:
    """The identity of a network: all that decides the shapes and meaning of weights.

    Hashable, so a static field of pytrees and an argument of jit. Raises UserError for
    values that no network has.
    """

    method: str  # a key of METHODS
    role: str  # "teacher" or "student"; "network" where the method has neither
    setting: settings.Name  # a key of SETTINGS
    scale: int
    # Sizes and switches of the network, all of them; what is not given is as published.
    network: FrozenDict[str, int] = FrozenDict()
    prior: bool = True  # whether a teacher that sees a prior is shown it

    def __post_init__(self) -> None:
        """Complete and check the fields."""
        known = {
            "method": METHODS,
            "setting": settings.SETTINGS,
            "scale": UPSCALER_STEPS,
        }
        if self.method in METHODS:
            known["role"] = self.entry.roles
        for field, values in known.items():
            if getattr(self, field) not in values:
                names = ", ".join(map(str, values))
                raise UserError(
                    f"{field} {getattr(self, field)!r} is none of {names}, which this "
                    "version knows"
                )
        sizes = _sizes(self.entry.network)
        unknown = self.network.keys() - sizes.keys()
        if unknown:
            raise UserError(
                f"network.{min(unknown)}: {self.entry.title} has no such size, but "
                f"{', '.join(sizes)}"
            )
        object.__setattr__(self, "network", FrozenDict({**sizes, **self.network}))

    @classmethod
    def from_config(
        cls, config: Config, source: str | Path = "the config"
    ) -> "ModelSpec":
        """The network of a run's config, or of the config that a file carries.

        Raises UserError, which names `source`, where there is no such network.
        """
        missing = [x for x in ("role", "setting", "scale") if x not in config]
        if missing:
            raise UserError(f"{source} lacks {', '.join(missing)}")
        network = config["network"] if "network" in config else {}
        try:
            return cls(
                method=_get(config, "method", DEFAULT_METHOD),
                role=config["role"],
                setting=config["setting"],
                scale=config["scale"],
                network=FrozenDict({name: network[name] for name in network}),
                prior=_get(config, "prior", True),
            )
        except UserError as error:
            raise UserError(f"{source}: {error}") from None

    @classmethod
    def of_network(
        cls,
        network: BlindNetwork,
        role: str,
        setting: settings.Name,
        *,
        prior: bool = True,
    ) -> "ModelSpec":
        """That of a network at hand."""
        name = next(n for n, m in METHODS.items() if m.network is type(network))
        sizes = {field: getattr(network, field) for field in _sizes(type(network))}
        scale: int = getattr(network, "scale")  # noqa: B009, all subclasses have it
        return cls(name, role, setting, scale, FrozenDict(sizes), prior)

    def as_config(self) -> Tree:
        """The JSON that files carry; `from_config` reads it."""
        return {**dataclasses.asdict(self), "network": dict(self.network)}

    @property
    def entry(self) -> Method:
        """The method's description."""
        return METHODS[self.method]

    @property
    def degradations(self) -> Setting:
        """The setting's description."""
        return settings.of(self.setting)

    @property
    def is_teacher(self) -> bool:
        return self.role == "teacher"

    @property
    def sees(self) -> Sees:
        """What the estimator sees beside the LR image."""
        sees = Sees(self.entry.privileged) if self.is_teacher else Sees.NOTHING
        hidden = sees is Sees.PRIOR and not self.prior
        return Sees.NOTHING if hidden else sees

    @property
    def projects(self) -> bool:
        """Whether there is a projector above the IDR."""
        return self.role in self.entry.projecting

    @property
    def ablated(self) -> bool:
        """Whether something of the method is switched off, as in Tables 1 and 2."""
        hidden = self.is_teacher and not self.prior
        return hidden or any(x is False for x in self.network.values())

    @property
    def kind(self) -> str:
        """Such as "teacher of KDSR"; LightBSR goes without saying."""
        if self.method == DEFAULT_METHOD:
            return self.role
        return f"{self.role} of {self.entry.title}"

    @property
    def title(self) -> str:
        """Such as "LightBSR teacher"; of what restores LR images alone, "LightBSR"."""
        return self.entry.title + (" teacher" if self.is_teacher else "")

    def __str__(self) -> str:
        """Such as "student of setting 2, x4, 8 groups of 8 blocks"."""
        sizes = {
            name: f"{size} {name.replace('_', ' ')}"
            for name, size in self.network.items()
            if not isinstance(size, bool)
        }
        text = ", ".join(sizes.values())
        if "groups" in sizes:
            text = f"{sizes['groups']} of {sizes['blocks']}"
        return f"{self.kind} of setting {self.setting}, x{self.scale}, {text}"

    def make_network(self, **options: Any) -> BlindNetwork:
        """The network; `options` are axis_name, remat, dtype."""
        make: Any = self.entry.network  # takes its fields, as all modules of linen
        return make(self.scale, **self.network, **options)

    def fresh_variables(self, key: Array) -> Tree:
        """Variables {"params", "batch_stats"} before any training."""
        privileged = None
        if self.sees is Sees.HIGH_RESOLUTION:
            privileged = jnp.zeros((1, 8 * self.scale, 8 * self.scale, 3))
        elif self.sees is Sees.PRIOR:
            privileged = jnp.zeros((1, self.degradations.prior_channels))
        return blind.initialise(
            self.make_network(), key, privileged, projects=self.projects
        )

    def shapes(self) -> Tree:
        """The shapes of {"params", "batch_stats", "basis"}."""
        basis = jax.ShapeDtypeStruct(prior.BASIS_SHAPE, jnp.float32)
        variables = jax.eval_shape(self.fresh_variables, jax.random.key(0))
        return {**variables, "basis": basis}


@dataclass(frozen=True)
class Contrast:
    """The queue of a run that learns by contrast."""

    queue_size: int
    crops: int | None = None  # of an image; None for weights that were converted
    enabled: bool = True  # False: momentum branch and queue lie idle (an ablation)


@dataclass(frozen=True)
class RunSpec:
    """What a run keeps: its network, and what stands beside that in a checkpoint."""

    model: ModelSpec
    contrast: Contrast | None = None
    averaged: bool = False  # whether there is an average of the parameters
    optimizer: str = "adam"

    @classmethod
    def from_config(
        cls, config: Config, source: str | Path = "the config"
    ) -> "RunSpec":
        """Of a run's config; raises UserError as `ModelSpec.from_config` does."""
        contrast = None
        if "contrast" in config:
            group = config["contrast"]
            contrast = Contrast(
                queue_size=group["queue_size"],
                crops=_get(group, "crops", None),
                enabled=_get(group, "enabled", True),
            )
        averaged = _get(config, "ema_decay", 0) > 0  # converted weights lack it
        optimizer = _get(config, "optimizer", cls.optimizer)
        model = ModelSpec.from_config(config, source)
        return cls(model, contrast, averaged, optimizer)

    def as_config(self) -> Tree:
        """The JSON that converted weights carry; `from_config` reads it."""
        config = self.model.as_config()
        if self.contrast is None:
            return config
        known = dataclasses.asdict(self.contrast).items()
        return {**config, "contrast": {k: x for k, x in known if x is not None}}


def method_of(config: Config) -> Method:
    """The method of a run's config."""
    return METHODS[_get(config, "method", DEFAULT_METHOD)]


def _sizes(network: type[BlindNetwork]) -> dict[str, int]:
    """The sizes and switches of a network's class, with their published values."""
    fields: Any = network  # a dataclass, as linen makes all modules
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(fields)}
    return {
        name: default
        for name, default in defaults.items()
        if name not in _OPTIONS and isinstance(default, int)
    }


def _get(config: Config, field: str, default: Any) -> Any:
    return config[field] if field in config else default
