"""The published training parameters of a method.

configs/NAME.py train with them and `lightbsr compare` steps with them, so that the
comparison uses the parameters of training. They lie in the methods' folders because the
package must not import configs/.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Adam:
    b1: float
    b2: float
    eps: float


@dataclass(frozen=True)
class Contrast:
    momentum: float  # of the momentum branch
    temperature: float


@dataclass(frozen=True)
class Distillation:
    temperature: float  # of the softmax inside KL
    l1_weight: float  # of the additional L1 distance


@dataclass(frozen=True)
class Adversarial:
    """Weights of losses beside L1, all measured on images in [0, 1]."""

    weight: float  # of the GAN loss
    perceptual_weight: float


@dataclass(frozen=True)
class Recipe:
    """The training parameters of a method, for its teacher and its student."""

    adam: Adam
    learning_rates: tuple[float, float]  # of both stages, after any warm-up
    contrast: Contrast | None = None
    distillation: Distillation | None = None
    adversarial: Adversarial | None = None  # of a last stage, if there is one
