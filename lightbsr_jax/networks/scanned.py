"""Blocks one after another, compiled once as a scan, and what gradients save."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name

_KEPT = "kept"


def save_for_remat(x: Array) -> Array:
    """Mark x, slow to compute and small, as worth saving: see `scan_blocks`."""
    return checkpoint_name(x, _KEPT)


def scan_blocks(
    block: type[nn.Module], length: int, *, remat: bool = False
) -> Callable[..., nn.Module]:
    """A class of modules of `length` such blocks, parameters stacked on a leading axis.

    A block is (x, *others) -> (x, None), and all see the same others. Being scanned it
    is compiled once. With `remat` gradients compute a block's insides anew, but for
    what is saved by `save_for_remat`.
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
