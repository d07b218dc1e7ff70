"""The numbers with which a method is trained as published.

configs/NAME.py train with them and `lightbsr compare` steps with them, so that what is
compared is what is trained. They lie in the methods' folders and not in configs/,
which an installed package is without.
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
    l1_weight: float  # of the L1 distance beside it


@dataclass(frozen=True)
class Recipe:
    """A method's; a student's and its teacher's are one."""

    adam: Adam
    learning_rates: tuple[float, float]  # where the stages begin, after any warm-up
    contrast: Contrast | None = None
    distillation: Distillation | None = None
