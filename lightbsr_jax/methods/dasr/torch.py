"""Names of DASR's layers in its PyTorch program."""

import numpy as np

from lightbsr_jax.methods.dasr.network import DASR
from lightbsr_jax.methods.torch_layers import (
    Names,
    Shapes,
    count,
    estimator,
    numbered,
    restorer,
    scale,
)

_BLOCK = "G.body.{}.body.{}"


def layers(network: DASR, prefix: str) -> Names:
    """Torch's names of all layers; `prefix` is that of the estimator's."""
    groups, blocks = network.groups, network.blocks
    body = "restorer/body/groups"
    names = {
        **estimator(prefix),
        "converter/compress": np.array("G.compress.0"),
        f"{body}/conv": numbered(f"G.body.{{}}.body.{blocks}", groups),
        **restorer(f"G.body.{groups}"),
    }
    by_block = {"conv_0": ".conv1", "conv_1": ".conv2"}
    for i in (0, 1):
        aware = f".da_conv{i + 1}"
        by_block |= {
            f"aware_{i}/dynamic/hidden": f"{aware}.kernel.0",
            f"aware_{i}/dynamic/kernel": f"{aware}.kernel.2",
            f"aware_{i}/conv": f"{aware}.conv",
            f"aware_{i}/gate_hidden": f"{aware}.ca.conv_du.0",
            f"aware_{i}/gate": f"{aware}.ca.conv_du.2",
        }
    for ours, theirs in by_block.items():
        names[f"{body}/blocks/{ours}"] = numbered(_BLOCK + theirs, groups, blocks)
    return names


def recognise(shapes: Shapes) -> tuple[DASR, str] | None:
    """The network and role that tensors of such shapes are of; None for another's."""
    groups = count(shapes, r"G\.body\.(\d+)\.body\.\d+\.da_conv2\.")
    blocks = count(shapes, r"G\.body\.\d+\.body\.(\d+)\.da_conv2\.")
    return (DASR(scale(shapes), groups, blocks), "network") if groups else None
