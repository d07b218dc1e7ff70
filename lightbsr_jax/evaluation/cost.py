"""Cost of a network, as in Figure 1 of the paper: size, operations, seconds."""

import os
import time
from typing import NamedTuple

import jax
import numpy as np

from lightbsr_jax.imaging import settings
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks import complexity

SIDE = 256  # side of the LR image for which papers of this field count operations


class Cost(NamedTuple):
    """Cost of one network for one LR image of SIDE x SIDE pixels."""

    parameters: int
    multiply_accumulates: int
    seconds: float  # the faster of two runs, without compilation
    device: str


def measure(model: Model, *, passes: int = 1) -> Cost:
    """Counts the operations, and times the network on the first device.

    `passes`: how many times an image passes the network.
    """
    lr = np.full((1, SIDE, SIDE, 3), 0.5, np.float32)
    known = settings.of(model.setting).sample(
        jax.random.split(jax.random.key(0), 1), width_max=float(model.scale)
    )
    hr = np.full((1, SIDE * model.scale, SIDE * model.scale, 3), 127, np.uint8)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(model.restore(lr, known, hr))
        seconds.append(time.perf_counter() - began)
    return Cost(
        parameters=complexity.parameters(model.variables["params"]),
        multiply_accumulates=passes
        * complexity.multiply_accumulates(type(model).restore, model, lr, known, hr),
        seconds=passes * min(seconds[1:]),
        device=device_name(),
    )


def device_name() -> str:
    """Name of the first device, such as "NVIDIA H100" or "cpu of 2 cores"."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu of {os.cpu_count()} cores"
    return device.device_kind
