"""A trained network, ready for use.

    model = Model.load("runs/student")  # or "setting2", which comes with the package
    sr = model.restore(lr)

LR images are [B, h, w, 3] RGB in [0, 1], SR images [B, h s, w s, 3] in 0..255.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lightbsr_jax.compilation import inference_jit
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import settings
from lightbsr_jax.imaging.synthesis import Known
from lightbsr_jax.methods.method import Method
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.spec import ModelSpec, Sees
from lightbsr_jax.typed import ArrayLike

_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Model:
    """A network with its weights, and the prior's basis that they were trained with.

    A pytree, whose leaves are its numbers: an argument of compiled functions.
    """

    spec: ModelSpec = field(metadata=_STATIC)
    variables: dict[str, Any]  # {"params", "batch_stats"}
    basis: Array | np.ndarray  # [441, 15]; zeros where a student came without
    step: int = 0  # updates that it was trained for

    @property
    def network(self) -> BlindNetwork:
        return self.spec.make_network()

    @property
    def method(self) -> Method:
        return self.spec.entry

    @property
    def role(self) -> str:
        """ "teacher", "student"; "network" of a method that has neither."""
        return self.spec.role

    @property
    def setting(self) -> settings.Name:
        """The kind of degradation that it was trained for, such as 1 or 2."""
        return self.spec.setting

    @property
    def scale(self) -> int:
        return self.spec.scale

    @property
    def prior(self) -> bool:
        """Whether a teacher that sees the prior is shown it."""
        return self.spec.prior

    @property
    def title(self) -> str:
        """Such as "LightBSR teacher"; of what restores LR images alone, "LightBSR"."""
        return self.spec.title

    @classmethod
    def load(cls, source: str | Path) -> "Model":
        """The network of weights that come with the package, of a file, or of a run.

        `source` is the weights' name ("setting2"), a file that `lightbsr pack` wrote,
        a state dict of a published program (.pt, .pth, .safetensors), or the workdir of
        a run. See models.load for all of it, and for the errors.
        """
        from lightbsr_jax.models.load import load  # which stands on this module

        return load(source)

    def restore(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        """SR images of LR images, not rounded.

        A teacher needs the truth (UserError without): LightBSR's the `degradation`,
        KDSR's the HR images in 0..255. A student ignores them.
        """
        privileged = self.privileged(degradation, hr)
        return _restore(self.network, self.variables, lr, privileged)

    def encode(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        """The IDRs [B, h', w', C] of LR images; the rest is as for `restore`."""
        privileged = self.privileged(degradation, hr)
        idr: Any = self.network.apply(self.variables, lr, privileged, method="encode")
        return idr

    def privileged(
        self, degradation: Known | None, hr: ArrayLike | None
    ) -> Array | None:
        """What the network sees beside LR images, in its own terms; None for none."""
        if self.spec.sees is Sees.NOTHING:
            return None
        if self.spec.sees is Sees.HIGH_RESOLUTION:
            if hr is None:
                raise UserError(
                    f"a {self.spec.kind} sees the HR image: give it, or use a student"
                )
            return jnp.asarray(hr) / 255
        if degradation is None:
            raise UserError(
                "a teacher sees the true degradation: give it, or use a student"
            )
        return self.spec.degradations.prior_vector(degradation, self.basis)


@partial(inference_jit, static_argnums=0)
def _restore(
    network: BlindNetwork,
    variables: dict[str, Any],
    lr: ArrayLike,
    privileged: Array | None,
) -> Array:
    restoration: Any = network.apply(variables, lr, privileged)
    return 255 * restoration.sr
