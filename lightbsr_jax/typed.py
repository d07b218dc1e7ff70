"""Types that rooms share, and flax's `apply` with a type that can be used."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

ArrayLike = jax.Array | np.ndarray  # what jax.numpy takes, but for plain numbers
Device = Any  # jax.Device, which JAX binds as a variable: no type to checkers


def apply(network: nn.Module, variables: Any, *arguments: Any, **options: Any) -> Any:
    """`network.apply` without mutable variables: what the module itself returns.

    (flax declares a union with pairs of that and changed variables, which would have to
    be told apart at each call.)
    """
    return network.apply(variables, *arguments, **options)
