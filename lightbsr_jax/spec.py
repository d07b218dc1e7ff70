"""Typed descriptions of a network and of a run, each made once from a config.

Configs are nested mappings: the ConfigDict of a training run, or the JSON stored in
checkpoints and weight files. Only this file reads the fields below from a config, and
only this file defines the defaults of optional fields.
"""

import dataclasses
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
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
CONTRASTED = ("estimator", "projector")  # modules copied in a momentum branch
KINDS = {  # types of fields, and what is said of a value of another one
    bool: "neither true nor false",
    float: "not a number",
    int: "not a whole number",
    str: "not a text",
}
# Fields of a network that affect how it computes, but not its results.
_OPTIONS = ("scale", "axis_name", "remat", "dtype", "parent", "name")


class Config(Protocol):
    """A mapping, or an ml_collections ConfigDict, which is not a Mapping."""

    def __getitem__(self, key: str, /) -> Any: ...

    def __contains__(self, key: str, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class Sees(enum.Enum):
    """An estimator's input in addition to the LR image; values of `privileged`."""

    NOTHING = None
    PRIOR = "prior"  # the vector of the true degradation
    HIGH_RESOLUTION = "hr"  # the HR image


@dataclass(frozen=True)
class ModelSpec:
    """The identity of a network: everything that defines its weights.

    It is hashable, so it can be a static field of pytrees and an argument of jit.
    Raises UserError for invalid values.
    """

    method: str  # a key of METHODS
    role: str  # "teacher" or "student"; "network" for methods without these
    setting: settings.Name  # a key of SETTINGS
    scale: int
    # All sizes and switches of the network; missing ones get their published values.
    network: FrozenDict[str, int] = FrozenDict()
    prior: bool = True  # False hides the prior from its teacher (an ablation)

    def __post_init__(self) -> None:
        """Completes and checks the fields."""
        known = {
            "method": METHODS,
            "setting": settings.SETTINGS,
            "scale": UPSCALER_STEPS,
        }
        if isinstance(self.method, str) and self.method in METHODS:
            known["role"] = self.entry.roles
        for field, values in known.items():
            given = getattr(self, field)
            # By type too: True and 2.0 equal whole numbers.
            if not any(type(given) is type(x) and given == x for x in values):
                names = ", ".join(map(str, values))
                raise UserError(
                    f"{field} {given!r} is unknown to this version: use one of {names}"
                )
        sizes = _sizes(self.entry.network)
        unknown = self.network.keys() - sizes.keys()
        if unknown:
            raise UserError(
                f"network.{min(unknown)}: {self.entry.title} has no such size: use "
                f"one of {', '.join(sizes)}"
            )
        for name, size in self.network.items():
            if type(size) is not type(sizes[name]):
                kind = KINDS[type(sizes[name])]
                raise UserError(f"network.{name} {size!r} is {kind}")
            if type(size) is int and size < 1:
                raise UserError(f"network.{name} {size} is too small: at least 1")
        if not isinstance(self.prior, bool):
            raise UserError(f"prior {self.prior!r} is {KINDS[bool]}")
        object.__setattr__(self, "network", FrozenDict({**sizes, **self.network}))

    @classmethod
    def from_config(
        cls, config: Config, source: str | Path = "the config"
    ) -> "ModelSpec":
        """The spec of a run's config, or of the config stored in a file.

        Raises UserError, which names `source`, if there is no such network.
        """
        missing = [x for x in ("role", "setting", "scale") if x not in config]
        if missing:
            raise UserError(f"{source} lacks {', '.join(missing)}: add the fields")
        network = _get(config, "network", {})
        if not hasattr(network, "keys"):  # ConfigDict is not a Mapping
            raise UserError(f"{source}: network {network!r} is not a group of sizes")
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
        """The spec of a network object."""
        name = next(n for n, m in METHODS.items() if m.network is type(network))
        sizes = {field: getattr(network, field) for field in _sizes(type(network))}
        scale: int = getattr(network, "scale")  # noqa: B009, all subclasses have it
        return cls(name, role, setting, scale, FrozenDict(sizes), prior)

    def as_config(self) -> Tree:
        """The JSON stored in files; `from_config` reads it."""
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
        """The estimator's input in addition to the LR image."""
        sees = Sees(self.entry.privileged) if self.is_teacher else Sees.NOTHING
        hidden = sees is Sees.PRIOR and not self.prior
        return Sees.NOTHING if hidden else sees

    @property
    def projects(self) -> bool:
        """True if the network has a projector."""
        return self.role in self.entry.projecting

    @property
    def ablated(self) -> bool:
        """True if a part of the method is switched off, as in Tables 1 and 2."""
        hidden = self.is_teacher and not self.prior
        return hidden or any(x is False for x in self.network.values())

    @property
    def kind(self) -> str:
        """Text such as "teacher of KDSR"; for LightBSR, only the role."""
        if self.method == DEFAULT_METHOD:
            return self.role
        return f"{self.role} of {self.entry.title}"

    @property
    def title(self) -> str:
        """A title such as "LightBSR teacher", or "LightBSR" for a student."""
        return self.entry.title + (" teacher" if self.is_teacher else "")

    def __str__(self) -> str:
        """Text such as "student of setting 2, x4, 8 groups of 8 blocks"."""
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
        """Makes the network; `options` are axis_name, remat, dtype."""
        make: Any = self.entry.network  # its arguments are its fields, as in linen
        return make(self.scale, **self.network, **options)

    def fresh_variables(self, key: Array) -> Tree:
        """Makes random variables {"params", "batch_stats"}."""
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
    """The contrastive part of a run."""

    queue_size: int
    crops: int | None = None  # per image; None for converted weights
    enabled: bool = True  # False: momentum branch and queue are unused (an ablation)


@dataclass(frozen=True)
class RunSpec:
    """The network of a run, and the other parts of its checkpoints."""

    model: ModelSpec
    contrast: Contrast | None = None
    averaged: bool = False  # True if the parameters are averaged
    optimizer: str = "adam"
    discriminator: int | None = None  # its features; None without a GAN loss

    @classmethod
    def from_config(
        cls, config: Config, source: str | Path = "the config"
    ) -> "RunSpec":
        """The spec of a run's config; raises as `ModelSpec.from_config` does."""
        contrast = None
        if "contrast" in config:
            field = partial(_field, config["contrast"], source=source, group="contrast")
            contrast = Contrast(
                queue_size=field("queue_size", int),
                crops=field("crops", int, None),
                enabled=field("enabled", bool, True),
            )
        # Converted weights lack it.
        averaged = _field(config, "ema_decay", float, 0, source=source) > 0
        optimizer = _field(config, "optimizer", str, cls.optimizer, source=source)
        discriminator = None
        if "adversarial" in config:
            group = config["adversarial"]
            discriminator = _field(
                group, "features", int, source=source, group="adversarial"
            )
        model = ModelSpec.from_config(config, source)
        return cls(model, contrast, averaged, optimizer, discriminator)

    def as_config(self) -> Tree:
        """The JSON stored with converted weights; `from_config` reads it."""
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
    fields: Any = network  # linen makes all modules dataclasses
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(fields)}
    return {
        name: default
        for name, default in defaults.items()
        if name not in _OPTIONS and isinstance(default, int)
    }


def _field(
    config: Any,
    name: str,
    kind: type,
    default: Any = dataclasses.MISSING,
    *,
    source: str | Path,
    group: str = "",
) -> Any:
    """A field of a config, or of its `group`, with a value of that type.

    Raises UserError, which names `source`.
    """
    if not hasattr(config, "keys"):
        raise UserError(f"{source}: {group} {config!r} is not a group of fields")
    path = f"{group}.{name}" if group else name
    if name not in config and default is dataclasses.MISSING:
        raise UserError(f"{source} lacks {path}: add the field")
    value = _get(config, name, default)
    if value is not default and not is_of(value, kind):
        raise UserError(f"{source}: {path} {value!r} is {KINDS[kind]}")
    return value


def is_of(value: Any, kind: type) -> bool:
    """Returns whether a value of a config has that type, one of KINDS."""
    return type(value) is kind or (kind is float and type(value) is int)


def _get(config: Config, field: str, default: Any) -> Any:
    return config[field] if field in config else default
