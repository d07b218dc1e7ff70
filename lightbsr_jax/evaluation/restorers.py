"""What can be measured: bicubic, a trained network's `Model`, one with a spoilt IDR."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from lightbsr_jax.imaging import resize
from lightbsr_jax.imaging.synthesis import Known
from lightbsr_jax.models.model import Model
from lightbsr_jax.typed import ArrayLike, apply

BICUBIC = "bicubic"


class Contender(NamedTuple):
    """What is measured, by what it is; scores, tables and captions have its name."""

    name: str  # its own among those that are measured
    method: str  # BICUBIC, or a network's in METHODS
    role: str | None = None  # a network's
    parameters: int | None = None  # a network's


class Restorer(Protocol):
    """What can be measured: a pytree, whose leaves are its weights."""

    def restore(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        """LR images [B, h, w, 3] in [0, 1] to [B, H, W, 3], 0..255, not rounded.

        `degradation` is what made them of `hr`, in 0..255: None where nobody knows.
        """
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bicubic:
    """Bicubic upsampling, the paper's first row."""

    scale: int = field(metadata={"static": True})

    def restore(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        height, width = lr.shape[1:3]
        return 255 * resize.bicubic(lr, (height * self.scale, width * self.scale))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spoilt:
    """A model whose modulators are replaced by U(0, 1): M4- and M5- of Table 2.

    Of LightBSR these are R_c and R_s.

    One draw serves all images of a size. Its PSNR against the model's own tells what
    the IDR contributes.
    """

    model: Model

    def restore(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        network, variables = self.model.network, self.model.variables
        size = lr.shape[1:3]
        idr = self.model.encode(lr, degradation, hr)
        modulators = apply(network, variables, idr, size, method="convert")
        keys = jax.random.split(jax.random.key(0))
        spoilt = [
            jnp.broadcast_to(jax.random.uniform(key, x.shape[1:]), x.shape)
            for key, x in zip(keys, modulators, strict=False)
        ]
        return 255 * apply(network, variables, lr, *spoilt, method="upscale")
