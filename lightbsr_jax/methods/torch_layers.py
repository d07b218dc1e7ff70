"""Names of layers in the PyTorch programs, for the layers that methods share.

A method's `torch.py` maps the path of each layer in our variables to its torch name,
and recognises its network by the names and shapes of tensors.
"""

import re
from collections.abc import Mapping
from itertools import product

import numpy as np

Names = dict[str, np.ndarray]  # torch names by our layers' paths; arrays if stacked
Shapes = Mapping[str, tuple[int, ...]]  # of tensors by their names

# Prefixes of the estimator's names: two contrastive branches, or a single one.
PRINCIPAL, MOMENTUM = "E.encoder_q.", "E.encoder_k."
LONE = "E."


def numbered(template: str, *counts: int) -> np.ndarray:
    """Fills a template with numbers, to names [*counts]: "a.{}" is a.0, a.1, ..."""
    names = [template.format(*index) for index in product(*map(range, counts))]
    return np.array(names).reshape(counts)


def restorer(convolution: str) -> Names:
    """Names of the layers of all restorers; `convolution` is the last of the body."""
    names = {
        "restorer/head": "G.head.0",
        "restorer/body/conv": convolution,
        "restorer/upscale_0": "G.tail.0.0",
        "restorer/upscale_1": "G.tail.0.2",
        "restorer/tail": "G.tail.1",
    }
    return {ours: np.array(theirs) for ours, theirs in names.items()}


def estimator(prefix: str) -> Names:
    """Names of the estimator's convolutions with BatchNorm, and of the projector."""
    names = {f"estimator/conv_{i}": f"{prefix}E.{3 * i}" for i in range(6)}
    names |= {f"estimator/norm_{i}": f"{prefix}E.{3 * i + 1}" for i in range(6)}
    named = {ours: np.array(theirs) for ours, theirs in names.items()}
    return named | projector(prefix)


def projector(prefix: str) -> Names:
    """Names of the two dense layers of the projector."""
    return {
        "projector/hidden": np.array(f"{prefix}mlp.0"),
        "projector/output": np.array(f"{prefix}mlp.2"),
    }


def scale(shapes: Shapes) -> int:
    """The scale 2, 3 or 4 of a restorer's upscaler."""
    if "G.tail.0.2.weight" in shapes:
        return 4
    shape = (*shapes.get("G.tail.0.0.weight", ()), 0, 0)
    return 3 if shape[0] == 9 * shape[1] else 2


def count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern's group matches; 0 for none.

    Numbers larger than the number of tensors are ignored, so that a single name cannot
    ask for a network of a million blocks.
    """
    found = [match[1] for name in shapes if (match := re.match(pattern, name))]
    numbers = [int(digits) for digits in found if len(digits) < 9]
    return max((1 + n for n in numbers if n < len(shapes)), default=0)
