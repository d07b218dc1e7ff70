"""Restorers to measure: interpolation, a `Model`, and a model with a spoilt IDR."""

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
LANCZOS = "Lanczos"
INTERPOLATIONS = (BICUBIC, LANCZOS)
PASSES = 8  # of an image through a self-ensemble


class Contender(NamedTuple):
    """A measured restorer, named as in scores, tables and captions."""

    name: str  # unique among the measured ones
    method: str  # one of INTERPOLATIONS, or a key of METHODS
    role: str | None = None  # a network's
    parameters: int | None = None  # a network's


class Restorer(Protocol):
    """Interface of what can be measured: a pytree whose leaves are its weights."""

    def restore(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        """Restores LR images [B, h, w, 3] in [0, 1] to [B, H, W, 3], 0..255, unrounded.

        `degradation` made them from `hr`, in 0..255; None if it is unknown.
        """
        ...


@dataclass(frozen=True)
class _Interpolation:
    """Upsampling by `_resize`, without a network."""

    scale: int = field(metadata={"static": True})

    def _resize(self, lr: ArrayLike, size: tuple[int, int]) -> Array:
        raise NotImplementedError

    def restore(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        height, width = lr.shape[1:3]
        return 255 * self._resize(lr, (height * self.scale, width * self.scale))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bicubic(_Interpolation):
    """Bicubic upsampling, the first row of the paper's tables."""

    def _resize(self, lr: ArrayLike, size: tuple[int, int]) -> Array:
        return resize.bicubic(lr, size)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lanczos(_Interpolation):
    """Lanczos upsampling, 3 lobes a side."""

    def _resize(self, lr: ArrayLike, size: tuple[int, int]) -> Array:
        return resize.lanczos(lr, size)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SelfEnsemble:
    """A model whose results for the 8 flips and transpositions of LR are averaged.

    The model must see the LR image alone.
    """

    model: Model

    def restore(
        self,
        lr: ArrayLike,
        degradation: Known | None = None,
        hr: ArrayLike | None = None,
    ) -> Array:
        turned = jnp.asarray(lr)
        total = jnp.float32(0)
        for quarters in range(4):
            for flipped in (False, True):
                view = jnp.rot90(turned, quarters, axes=(1, 2))
                sr = self.model.restore(view[:, :, ::-1] if flipped else view)
                sr = sr[:, :, ::-1] if flipped else sr
                total = total + jnp.rot90(sr, -quarters, axes=(1, 2))
        return total / PASSES


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spoilt:
    """A model whose modulators are replaced by U(0, 1): M4- and M5- of Table 2.

    LightBSR's modulators are R_c and R_s. All images of a size share one draw. The loss
    of PSNR against the intact model shows what the IDR contributes.
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
