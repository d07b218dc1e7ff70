"""The optimiser that a config names: Adam, or Muon of matrices and Adam of the rest.

Both give updates of about the same size, to be multiplied by minus the learning rate.
"""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

OPTIMIZERS = ("adam", "muon")

# Keller Jordan's momentum, and the size of updates at which Adam's rates serve for both
# (Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982).
_MUON_BETA = 0.95
_MUON_RMS = 0.2
_STACKS = ("groups", "blocks")  # modules whose parameters lie in a row (`scan_blocks`)
_ENDS = ("head", "tail")  # of the restorer: what touches pixels stays with Adam


def make(
    name: str, *, b1: float = 0.9, b2: float = 0.99, eps: float = 1e-8
) -> optax.GradientTransformation:
    """The optimiser of that name, without its rate; the numbers are Adam's."""
    if name == "adam":
        return optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return muon(
        -1.0,  # optax's own sign is a descent's
        beta=_MUON_BETA,
        consistent_rms=_MUON_RMS,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=matrices,
    )


def matrices(params: Any) -> Any:
    """The axes along which a parameter is a matrix, of a tree; None where it is none.

    A convolution's inputs are those of all its taps. Depthwise kernels, vectors, and
    the layers that pixels enter and leave by are no matrices here.
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
