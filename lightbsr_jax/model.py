"""A trained network, ready for use.

    model = Model.load("runs/student")
    sr = model.restore(lr)

LR images are [B, h, w, 3] RGB in [0, 1], SR images [B, h s, w s, 3] in 0..255.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lightbsr_jax.checkpoint import opened
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import prior
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.networks.lightbsr import LightBSR, initialise


@dataclass(frozen=True)
class Model:
    """A network with its weights, and the prior's basis that they were trained with."""

    role: str  # "teacher" or "student"
    setting: int  # 1 or 2, the kind of degradation that it was trained for
    network: LightBSR
    variables: dict[str, Any]  # {"params", "batch_stats"}
    basis: Array  # [441, 15]; zeros where a converted student came without
    step: int = 0  # updates that it was trained for

    @property
    def scale(self) -> int:
        return self.network.scale

    @classmethod
    def load(cls, workdir: str | Path) -> "Model":
        """The newest checkpoint of a training run that is not damaged.

        Raises FileNotFoundError where there is none.
        """
        with opened(workdir) as checkpoints:
            step, about, restored = checkpoints.model(_shapes)
        config = about["config"]
        restored = jax.device_put(restored, jax.local_devices()[0])
        return cls(
            role=config["role"],
            setting=config["setting"],
            network=_network(config),
            basis=restored.pop("basis"),
            variables=restored,
            step=step,
        )

    def restore(self, lr: Array, degradation: Degradation | None = None) -> Array:
        """SR images of LR images, not rounded.

        A teacher needs the true `degradation` (UserError without), a student ignores
        it.
        """
        vector = None
        if self.role == "teacher":
            if degradation is None:
                raise UserError(
                    "a teacher sees the true degradation: give it, or use a student"
                )
            vector = prior.vector(degradation, self.basis, setting=self.setting)
        return _restore(self.network, self.variables, lr, vector)


def _network(config: dict[str, Any]) -> LightBSR:
    return LightBSR(config["scale"], **config["network"])


def _shapes(about: dict[str, Any]) -> dict[str, Any]:
    """The shapes of what a checkpoint holds of a model."""
    config = about["config"]
    channels = None
    if config["role"] == "teacher":
        channels = prior.channels(config["setting"])
    initial = partial(initialise, _network(config), prior_channels=channels)
    basis = jax.ShapeDtypeStruct(prior.BASIS_SHAPE, jnp.float32)
    return {**jax.eval_shape(initial, jax.random.key(0)), "basis": basis}


@partial(jax.jit, static_argnums=0)
def _restore(
    network: LightBSR, variables: dict[str, Any], lr: Array, vector: Array | None
) -> Array:
    return 255 * network.apply(variables, lr, vector).sr
