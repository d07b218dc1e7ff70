"""Outputs of all modules, by the names of the published program's modules.

Some of our modules pass work to others that the program does in one place, and one of
our modules may stand for several of the program's. This file converts between them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from lightbsr_jax.methods import registry
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.torch_layers import LONE, MOMENTUM
from lightbsr_jax.models import torch_names
from lightbsr_jax.parity.case import Arrays, Case
from lightbsr_jax.training.state import Tree

Named = Iterator[tuple[str, np.ndarray]]

_CHANNELS_LAST = (".norm", ".pwconv1", ".pwconv2")  # modules whose torch outputs are
_GROUPS = "restorer/body/groups"


def outputs(
    case: Case,
    role: str,
    variables: Tree,
    lr: Any,
    seen: Any,
    estimator: str | None = None,
) -> Arrays:
    """Every module's output by the reference's names; for MOMENTUM only its branch.

    In evaluation mode lr is [B, h, w, 3], in training mode [D, B, h, w, 3].
    """
    network = case.network
    if estimator is None:
        estimator = case.method.roles[role]
    values = _capture(case, role, variables, lr, seen, alone=estimator == MOMENTUM)
    _unfold(values, variables["params"])
    batch, found = lr.shape[-4], {}
    for name, value in _by_name(values, network, estimator):
        own = value.shape[-3:] if value.ndim >= 4 else value.shape[-1:]
        value = value.reshape(-1, batch, *own)  # calls first
        if len(own) == 3 and not name.endswith(_CHANNELS_LAST):
            value = channels_first(value)
        found[name] = value
    return found


def channels_first(images: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(images), -1, -3)


def _capture(
    case: Case, role: str, variables: Tree, lr: Any, seen: Any, *, alone: bool
) -> dict[str, Any]:
    """The outputs of our modules by path; with `alone`, without the restoration."""
    visits = tuple(range(len(lr))) if lr.ndim == 5 else None

    def visit(module: BlindNetwork, lr: Any, seen: Any) -> None:
        idr = module.encode(lr, seen, visits=visits)
        if role in case.method.projecting:
            module.project(idr.reshape(-1, *idr.shape[-3:]))
        if visits is not None:
            lr, idr = lr[0], idr[0]
        if not alone:
            module.restore(lr, idr)

    @jax.jit
    def capture(variables: Tree, lr: Any, seen: Any) -> Any:
        _, new = case.network.apply(
            variables,
            lr,
            seen,
            method=visit,
            capture_intermediates=True,
            mutable=["batch_stats", "intermediates"],
        )
        return new["intermediates"]

    captured: dict[Any, Any] = flatten_dict(
        jax.device_get(capture(variables, lr, seen))
    )
    return {"/".join(path[:-1]): value[0] for path, value in captured.items()}


def _unfold(values: dict[str, Any], params: Tree) -> None:
    """Converts outputs in place to those of the reference's modules.

    Our LayerNorm passes its affine to the next layer, and our layer scale is part of
    the previous layer.
    """

    def along_pixels(x: np.ndarray) -> np.ndarray:
        return x[..., None, None, None, :]

    for path, value in values.items():
        if path.endswith("/norm"):
            x, (scale, bias) = value
            values[path] = x * along_pixels(scale) + along_pixels(bias)
    for path, scale in flatten_dict(params, sep="/").items():
        module, _, name = path.rpartition("/")
        reduce = f"{module}/reduce"
        if name == "layer_scale" and reduce in values:
            values[reduce] = values[reduce] / along_pixels(np.asarray(scale))


def _by_name(values: Mapping[str, Any], network: BlindNetwork, estimator: str) -> Named:
    """Converts outputs of our modules, by path, to the reference's, by name."""
    # The layer scale is not a module of the reference.
    scales = (f"{_GROUPS}/blocks/mixing", f"{_GROUPS}/convnext")
    for path, names in torch_names.layers(network, estimator).items():
        if path in values and path not in scales:
            for index in np.ndindex(names.shape):
                yield str(names[index]), values[path][index]
    method = next(n for n, m in registry.METHODS.items() if m.network is type(network))
    yield from _WHOLES.get(method, _restoration)(values, network, estimator)


def _restoration(
    values: Mapping[str, Any], network: BlindNetwork, estimator: str
) -> Named:
    """The output of the whole network, for methods whose layers are compared."""
    if estimator != MOMENTUM:
        yield "G", values["restorer"] * network.IMAGE_RANGE


def _of_lightbsr(values: Mapping[str, Any], network: Any, estimator: str) -> Named:
    """The outputs of LightBSR's modules that consist of others."""
    if estimator == LONE:
        yield "E", values["estimator"]
    else:
        yield f"{estimator[:-1]}/0", values["estimator"]
        yield f"{estimator[:-1]}/1", values["projector"]
    if estimator == MOMENTUM:
        return
    for index, value in enumerate((values["restorer"], *values["converter"])):
        yield f"G/{index}", value
    groups, _ = values[_GROUPS]
    blocks, _ = values[f"{_GROUPS}/blocks"]
    channel = values[f"{_GROUPS}/blocks/channel"]
    both = np.concatenate([values[f"{_GROUPS}/blocks/spatial"], channel], axis=-1)
    convnext = blocks[:, -1] + values[f"{_GROUPS}/convnext"]
    for g in range(network.groups):
        group = f"G.body.{g}"
        for index, value in enumerate(groups):
            yield f"{group}/{index}", value[g]
        yield f"{group}.ca_change", values[f"{_GROUPS}/channel_converter"][g]
        yield f"{group}.xk_change", values[f"{_GROUPS}/spatial_converter"][g]
        yield f"{group}.body.{network.blocks}", convnext[g]
        for b in range(network.blocks):
            yield f"{group}.body.{b}", blocks[g, b]
            yield f"{group}.body.{b}.spatial_mixing", both[g, b]
            yield f"{group}.body.{b}.spatial_mixing.loc", channel[g, b]


# Composite modules by method; for other methods only layers and the whole network.
_WHOLES: dict[str, Callable[..., Named]] = {"lightbsr": _of_lightbsr}
