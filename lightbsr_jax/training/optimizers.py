"""The optimisers that configs name: Adam, or Muon for matrices and Adam for the rest.

Both return updates of about the same size, which minus the learning rate multiplies.
"""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

OPTIMIZERS = ("adam", "muon")

# Keller Jordan's momentum, and the size of updates for which Adam's rates suit both
# (Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982).
_MUON_BETA = 0.95
_MUON_RMS = 0.2
_STACKS = ("groups", "blocks")  # modules with stacked parameters (`scan_blocks`)
_ENDS = ("head", "tail")  # the restorer's first and last layer, trained by Adam


def make(
    name: str, *, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Makes the optimiser of that name, without its rate; b1, b2, eps are Adam's.

    Muon adds the same eps to the norms of matrices.
    """
    if name == "adam":
        return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return muon(
        -1.0,  # optax's updates already have the sign of a descent
        beta=_MUON_BETA,
        eps=eps,
        consistent_rms=_MUON_RMS,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=matrices,
    )


def matrices(params: Any) -> Any:
    """The axes along which each parameter of a tree is a matrix, or None.

    The inputs of a convolution are those of all its taps. Depthwise kernels, vectors,
    and the layers at the pixels do not count as matrices.
    """

    def axes(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        names = [str(part.key) for part in path]
        stacked = sum(name in _STACKS for name in names)
        form = leaf.shape[stacked:]
        thin = len(form) < 2 or form[-2] == 1
        if names[-1] != "kernel" or thin or names[-2] in _ENDS:
            return None
        return MuonDimensionNumbers(tuple(range(stacked, leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)
