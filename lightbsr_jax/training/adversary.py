"""Training with a GAN loss: the generator's losses and the discriminator's update.

The generator minimises L_SR plus a weighted GAN loss and, with the weights of VGG19, a
perceptual loss; losses of frequencies and structure, which need no weights, can be
added. Then the discriminator learns to tell its SR images from HR images. As
in the published program, a step passes through the discriminator three times: SR for
the generator, HR, and SR for the discriminator. Each pass advances the vectors of
spectral normalisation once.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from lightbsr_jax.errors import UserError
from lightbsr_jax.models import vgg_file
from lightbsr_jax.networks import discriminator, vgg
from lightbsr_jax.networks.discriminator import VECTORS, Discriminator
from lightbsr_jax.networks.vgg import VGG19
from lightbsr_jax.training import losses
from lightbsr_jax.training.config import Adversarial, TrainingConfig
from lightbsr_jax.training.descent import AXIS, clip, descend, microbatched
from lightbsr_jax.training.state import DiscriminatorState, Tree
from lightbsr_jax.typed import apply

Metrics = dict[str, Array]


# Losses of SR and HR images that need no weights of another network.
PLAIN: dict[str, Callable[[Array, Array], Array]] = {
    "focal_frequency": losses.focal_frequency,
    "ms_ssim": losses.ms_ssim,
}


class Adversary(NamedTuple):
    """A discriminator, and the losses of a generator that trains against it."""

    network: Discriminator
    optimizer: optax.GradientTransformation
    weights: Mapping[str, float]  # of the generator's losses by their names
    vgg: VGG19 | None  # None: no perceptual loss

    def judge(self, params: Tree, vectors: Tree, images: Array) -> Array:
        """The logits of images [B, H, W, 3] in [0, 1]."""
        return apply(self.network, {"params": params, VECTORS: vectors}, images)


class Judges(NamedTuple):
    """The networks in a generator's losses, which its gradients do not change."""

    params: Tree  # the discriminator's
    vectors: Tree
    vgg: Tree | None  # parameters


class Restored(NamedTuple):
    """The SR images of a step with an adversary, and its losses before weighting."""

    metrics: Metrics
    sr: Array  # [B, H, W, 3] in [0, 1]


def in_unit_range(hr: Array, like: Array) -> Array:
    """HR images in [0, 1] of those in 0..255, of the type of `like`."""
    return hr.astype(like.dtype) / 255


def of_generator(adversary: Adversary, sr: Array, hr: Array, given: Judges) -> Metrics:
    """A generator's losses of SR images beside L_SR; images are in [0, 1]."""
    logits = adversary.judge(given.params, given.vectors, sr)
    found = {"adversarial": losses.adversarial(logits, real=True)}
    if adversary.vgg is not None:
        variables = {"params": given.vgg}
        features, expected = (apply(adversary.vgg, variables, x) for x in (sr, hr))
        found["perceptual"] = losses.perceptual(features, expected)
    for name, loss in PLAIN.items():
        if adversary.weights.get(name):
            found[name] = loss(sr, hr)
    return found


def weighted(adversary: Adversary, found: Metrics) -> Array:
    """The weighted sum of the losses of `of_generator`."""
    terms = [adversary.weights[name] * loss for name, loss in found.items()]
    return jnp.stack(terms).sum()


def discriminate(
    adversary: Adversary,
    state: DiscriminatorState,
    images: tuple[Array, Array],
    *,
    rate: Any,
    microbatches: int = 1,
    gradient_clip: float = 0.0,
) -> tuple[DiscriminatorState, Metrics]:
    """Updates a discriminator by (HR, SR) images [B, H, W, 3] in [0, 1].

    The first pass of the step, that of the generator, is done.
    """

    def loss(
        params: Tree, _: Any, images: tuple[Array, Array], vectors: tuple[Tree, Tree]
    ) -> tuple[Array, Metrics]:
        real, fake = (
            adversary.judge(params, own, seen)
            for own, seen in zip(vectors, images, strict=True)
        )
        found = {
            "real": losses.adversarial(real, real=True),
            "fake": losses.adversarial(fake, real=False),
        }
        return found["real"] + found["fake"], found

    second, third, last = _passes(state)
    gradient = jax.grad(microbatched(loss, microbatches), has_aux=True)
    images = lax.stop_gradient(images)
    gradients, found = gradient(state.params, (), images, (second, third))
    gradients, norm = clip(lax.pmean(gradients, AXIS), gradient_clip)
    params, opt_state = descend(
        adversary.optimizer, rate, gradients, state.opt_state, state.params
    )
    metrics = lax.pmean(found, AXIS) | {"discriminator_gradient_norm": norm}
    return DiscriminatorState(params, last, opt_state), metrics


def _passes(state: DiscriminatorState) -> tuple[Tree, Tree, Tree]:
    """The vectors with which a step's second and third pass begin, and the last."""
    second = discriminator.iterate(state.params, state.vectors)
    third = discriminator.iterate(state.params, second)
    return second, third, discriminator.iterate(state.params, third)


def make(config: TrainingConfig) -> Adversary | None:
    """Makes the adversary of a config, or None for a run without a GAN loss."""
    given, dtype = config.adversarial, config.compute.dtype
    if given is None:
        return None
    return Adversary(
        network=Discriminator(given.features, dtype),
        optimizer=optax.scale_by_adam(
            b1=config.adam.b1, b2=config.adam.b2, eps=config.adam.eps
        ),
        weights=weights_of(given),
        vgg=VGG19(vgg.FEATURES, dtype) if given.perceptual else None,
    )


def weights_of(given: Adversarial) -> dict[str, float]:
    """The weights of the generator's losses, by their names."""
    return {
        "adversarial": given.weight,
        "perceptual": given.perceptual_weight,
        "focal_frequency": given.focal_frequency_weight,
        "ms_ssim": given.ms_ssim_weight,
    }


def describe(given: Adversarial) -> str:
    """A line for a run's log on its losses."""
    line = f"GAN loss with weight {given.weight:g} beside L1 on [0, 1]"
    for name in PLAIN:
        if weight := weights_of(given)[name]:
            line += f", {name} with weight {weight:g}"
    if given.perceptual:
        weight, file = given.perceptual_weight, given.perceptual
        return f"{line}, perceptual loss with weight {weight:g} by VGG19 of {file}"
    return (
        f"{line}, no perceptual loss: config.adversarial.perceptual names no file "
        "with torchvision's VGG19"
    )


def load_vgg(path: str) -> Tree:
    """Reads VGG19's parameters of a config. Raises UserError, which names the field."""
    try:
        return vgg_file.read(path)
    except (OSError, UserError) as error:
        raise UserError(f"config.adversarial.perceptual: {error}") from error
