"""Names of LightBSR's layers in its PyTorch program."""

import numpy as np

from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.torch_layers import (
    LONE,
    MOMENTUM,
    PRINCIPAL,
    Names,
    Shapes,
    count,
    estimator,
    numbered,
    restorer,
    scale,
)

_GROUP, _BLOCK = "G.body.{}", "G.body.{}.body.{}"
_MIXING = {  # the layer scale has the module's own name
    "": "",
    "/depthwise": ".dwconv",
    "/norm": ".norm",
    "/expand": ".pwconv1",
    "/reduce": ".pwconv2",
}


def layers(network: LightBSR, prefix: str) -> Names:
    """Torch's names of all layers; `prefix` is that of the estimator's."""
    groups, blocks = network.groups, network.blocks
    by_block = {
        "spatial/mask_hidden": ".spatial_mixing.spatial_attention.0",
        "spatial/mask": ".spatial_mixing.spatial_attention.2",
        "spatial/conv": ".spatial_mixing.partial_conv3",
        "channel/weight_hidden": ".spatial_mixing.loc.avgafter.0",
        "channel/weight": ".spatial_mixing.loc.avgafter.2",
        **{f"mixing{ours}": theirs for ours, theirs in _MIXING.items()},
    }
    by_group = {
        "channel_converter/expand": ".ca_change.avgafter.0",
        "channel_converter/reduce": ".ca_change.avgafter.2",
        "spatial_converter/expand": ".xk_change.sig1.0",
        "spatial_converter/reduce": ".xk_change.sig1.2",
        "conv": f".body.{blocks + 1}",
        **{
            f"convnext{ours}": f".body.{blocks}{theirs}"
            for ours, theirs in _MIXING.items()
        },
    }
    body = "restorer/body/groups"
    return {
        **estimator(prefix),
        "converter/channel": np.array("G.compress.0"),
        "converter/spatial": np.array("G.afterpixshuffle.0"),
        **restorer(f"G.body.{groups}"),
        **{
            f"{body}/{ours}": numbered(_GROUP + theirs, groups)
            for ours, theirs in by_group.items()
        },
        **{
            f"{body}/blocks/{ours}": numbered(_BLOCK + theirs, groups, blocks)
            for ours, theirs in by_block.items()
        },
    }


def recognise(shapes: Shapes) -> tuple[LightBSR, str] | None:
    """The network and role that tensors of such shapes are of; None for another's."""
    groups = count(shapes, r"G\.body\.(\d+)\.body\.\d+\.spatial_mixing\.")
    blocks = count(shapes, r"G\.body\.\d+\.body\.(\d+)\.spatial_mixing\.")
    if not groups or not any(name.startswith(LONE) for name in shapes):
        return None
    contrasts = any(name.startswith((PRINCIPAL, MOMENTUM)) for name in shapes)
    role = "teacher" if contrasts else "student"
    return LightBSR(scale(shapes), groups, blocks), role
