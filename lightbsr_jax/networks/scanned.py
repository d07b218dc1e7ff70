"""Scanning a sequence of blocks, compiled once, and saving values for gradients."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

_KEPT = "kept"


def save_for_remat(x: Array) -> Array:
    """Marks x to be saved for gradients, if it is small and slow: see `scan_blocks`."""
    return checkpoint_name(x, _KEPT)


def scan_blocks(
    block: type[nn.Module], length: int, *, remat: bool = False
) -> Callable[..., nn.Module]:
    """Makes a module class of `length` blocks, with parameters on a leading axis.

    A block is (x, *others) -> (x, None), and all blocks get the same others. The scan
    compiles a single block. With `remat`, gradients recompute the inside of a block,
    except for values saved by `save_for_remat`.
    """
    if remat:
        policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
        block = nn.remat(block, prevent_cse=False, policy=policy)
    scan: Any = nn.scan  # declares in_axes as numbers
    return scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=length,
    )
