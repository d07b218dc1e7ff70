"""Size and operations of a network, counted without running it."""

from collections.abc import Callable
from typing import Any

import jax

from lightbsr_jax.networks.operators import plain_ops


def parameters(tree: Any) -> int:
    """Number of values in a tree of parameters, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def multiply_accumulates(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-accumulates of the convolutions and products in function(*arguments).

    `arguments` may be shapes. Elementwise arithmetic, norms and pools are not counted,
    as is usual in papers of this field (which call the figure FLOPs).
    """
    with plain_ops():
        traced = jax.make_jaxpr(function)(*arguments)
    return _count(traced.jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            (_, kernel), (output,) = equation.invars, equation.outvars
            channels = parameters["dimension_numbers"].rhs_spec[0]
            shape = kernel.aval.shape
            total += output.aval.size * kernel.aval.size // shape[channels]
        elif name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            terms = 1
            for axis in contracted:
                terms *= shape[axis]
            total += equation.outvars[0].aval.size * terms
        else:
            repeats = parameters["length"] if name == "scan" else 1
            inner = jax.tree.leaves(list(parameters.values()), is_leaf=_is_jaxpr)
            total += repeats * sum(
                _count(getattr(part, "jaxpr", part))
                for part in inner
                if _is_jaxpr(part)
            )
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")
