"""All methods by name, and the method and sizes of a network.

A method is a folder methods/NAME/ and a config (configs/NAME.py). The folder holds its
network (an estimator, projector, converter and restorer under these names), the names
of its layers in torch, and the `METHOD` that describes it. A run's config names the
method (`method`, by default LightBSR) and the role; its groups `contrast` and
`distillation` select the update that trains it (training/setup.py). Methods share
everything else. `METHODS` holds all methods; a fourth method is a fourth entry.
"""

import dataclasses
from typing import Any

from lightbsr_jax.methods.dasr.method import METHOD as DASR
from lightbsr_jax.methods.kdsr.method import METHOD as KDSR
from lightbsr_jax.methods.lightbsr.method import METHOD as LIGHTBSR
from lightbsr_jax.methods.method import Method
from lightbsr_jax.methods.network import BlindNetwork

METHODS = {"lightbsr": LIGHTBSR, "kdsr": KDSR, "dasr": DASR}


def of_network(network: BlindNetwork) -> Method:
    """The method of a network."""
    return next(m for m in METHODS.values() if m.network is type(network))


def sizes(network: BlindNetwork) -> dict[str, int]:
    """The fields of a network that are sizes: integers, except the scale."""
    fields: Any = network  # a dataclass, as linen makes all modules
    values = {f.name: getattr(network, f.name) for f in dataclasses.fields(fields)}
    return {n: x for n, x in values.items() if type(x) is int and n != "scale"}
