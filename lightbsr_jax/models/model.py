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
@dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights, and the basis of the prior used in its training.

    It is a pytree whose leaves are its arrays, so compiled functions can take it.
    Models compare by identity.
    """

    spec: ModelSpec = field(metadata=_STATIC)
    variables: dict[str, Any]  # {"params", "batch_stats"}
    basis: Array | np.ndarray  # [441, 15]; zeros for a student without a basis
    step: int = 0  # number of training updates

    @property
    def network(self) -> BlindNetwork:
        return self.spec.make_network()

    @property
    def method(self) -> Method:
        return self.spec.entry

    @property
    def role(self) -> str:
        """The role: "teacher", "student", or "network" for methods without these."""
        return self.spec.role

    @property
    def setting(self) -> settings.Name:
        """The degradation setting that it was trained for, such as 1 or 2."""
        return self.spec.setting

    @property
    def scale(self) -> int:
        return self.spec.scale

    @property
    def prior(self) -> bool:
        """True unless an ablation hides the prior from its teacher."""
        return self.spec.prior

    @property
    def title(self) -> str:
        """A title such as "LightBSR teacher", or "LightBSR" for a student."""
        return self.spec.title

    @classmethod
    def load(cls, source: str | Path) -> "Model":
        """Loads weights that come with the package, a file, or a run.

        `source` is the name of weights ("setting2"), a file that `lightbsr pack` wrote,
        a state dict of a published program (.pt, .pth, .safetensors), or the workdir of
        a run. See models.load for details and errors.
        """
        from lightbsr_jax.models.load import load  # it imports this module

        return load(source)

    def restore(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        """Restores LR images to SR images, without rounding or clipping.

        LR images are [B, h, w, 3] in 0..1, and SR images [B, h s, w s, 3] in 0..255.

        A teacher needs the true `degradation` (LightBSR) or the HR images in 0..255
        (KDSR); raises UserError without. A student ignores them. Raises UserError for
        LR images of another shape, or of integers, which are not in [0, 1].
        """
        _check_lr(lr)
        privileged = self.privileged(degradation, hr)
        return _restore(self.network, self.variables, lr, privileged)

    def encode(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        """The IDRs [B, h', w', C] of LR images, with the arguments of `restore`."""
        _check_lr(lr)
        privileged = self.privileged(degradation, hr)
        idr: Any = self.network.apply(self.variables, lr, privileged, method="encode")
        return idr

    def privileged(
        self, degradation: Known | None, hr: ArrayLike | None
    ) -> Array | None:
        """The network's input in addition to LR images; None if it has none."""
        if self.spec.sees is Sees.NOTHING:
            return None
        if self.spec.sees is Sees.HIGH_RESOLUTION:
            if hr is None:
                raise UserError(
                    f"a {self.spec.kind} needs the HR image: give it, or use a student"
                )
            return jnp.asarray(hr) / 255
        if degradation is None:
            raise UserError(
                "a teacher needs the true degradation: give it, or use a student"
            )
        return self.spec.degradations.prior_vector(degradation, self.basis)


def _check_lr(lr: ArrayLike) -> None:
    if lr.ndim != 4 or lr.shape[-1] != 3:
        raise UserError(
            f"LR images are {list(lr.shape)}: give RGB [B, h, w, 3], as image[None] is"
        )
    if not jnp.issubdtype(lr.dtype, jnp.floating):
        raise UserError(
            f"LR images are of type {lr.dtype}: give floats in [0, 1], such as 0..255 "
            "divided by 255"
        )


@partial(inference_jit, static_argnums=0)
def _restore(
    network: BlindNetwork,
    variables: dict[str, Any],
    lr: ArrayLike,
    privileged: Array | None,
) -> Array:
    restoration: Any = network.apply(variables, lr, privileged)
    return 255 * restoration.sr
