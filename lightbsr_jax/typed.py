"""Types that rooms share, and flax's `apply` with a usable type."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

ArrayLike = jax.Array | np.ndarray  # arguments of jax.numpy, except plain numbers
Device = Any  # jax.Device is a variable in JAX, which type checkers reject


def apply(network: nn.Module, variables: Any, *arguments: Any, **options: Any) -> Any:
    """Calls `network.apply` without mutable variables; returns the module's result.

    (flax declares a union with pairs of result and changed variables, which each caller
    would have to distinguish.)
    """
    return network.apply(variables, *arguments, **options)
