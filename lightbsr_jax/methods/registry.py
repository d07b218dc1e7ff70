"""All methods by name, and what a run's config or a network says of its own.

A method is a folder methods/NAME/ and a config (configs/NAME.py). The folder has its
network (an estimator, projector, converter and restorer under these names), its layers'
names in torch, and the `METHOD` that describes it. A run's config names the method
(`method`; LightBSR where it does not), the role, and by its groups `contrast` and
`distillation` the update that trains it (training/setup.py). All else is shared.
`METHODS` is everything there is; a fourth method is a fourth entry.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from lightbsr_jax.imaging.settings import SETTINGS
from lightbsr_jax.methods import network as blind
from lightbsr_jax.methods.dasr.method import METHOD as DASR
from lightbsr_jax.methods.kdsr.method import METHOD as KDSR
from lightbsr_jax.methods.lightbsr.method import METHOD as LIGHTBSR
from lightbsr_jax.methods.method import Method
from lightbsr_jax.methods.network import BlindNetwork

METHODS = {"lightbsr": LIGHTBSR, "kdsr": KDSR, "dasr": DASR}


def of(config: Mapping[str, Any]) -> Method:
    """The method of a run's config."""
    return METHODS[config.get("method", "lightbsr")]


def of_network(network: BlindNetwork) -> Method:
    """The method that has such a network."""
    return next(m for m in METHODS.values() if m.network is type(network))


def called(config: Mapping[str, Any]) -> str:
    """What a run trains, such as "teacher of KDSR"; LightBSR goes without saying."""
    method = of(config)
    named = "" if method is METHODS["lightbsr"] else f" of {method.title}"
    return config["role"] + named


def make_network(config: Mapping[str, Any], **options: Any) -> BlindNetwork:
    """The network of a run's config; `options` are axis_name, remat, dtype."""
    network: Any = of(config).network
    return network(config["scale"], **config["network"], **options)


def sizes(network: BlindNetwork) -> dict[str, int]:
    """What of a network's fields are sizes: a config's, but for switches."""
    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(network)}
    return {n: x for n, x in fields.items() if type(x) is int and n != "scale"}


def fresh_variables(config: Mapping[str, Any], key: Array) -> dict[str, Any]:
    """Variables {"params", "batch_stats"} of a run before its first step."""
    method, role, scale = of(config), config["role"], config["scale"]
    privileged = None
    if role == "teacher" and method.privileged == "hr":
        privileged = jnp.zeros((1, 8 * scale, 8 * scale, 3))
    elif role == "teacher":
        shown = config.get("prior", True)
        channels = SETTINGS[config["setting"]].prior_channels if shown else 0
        privileged = jnp.zeros((1, channels))
    return blind.initialise(
        make_network(config), key, privileged, projects=role in method.projecting
    )
