"""Names of KDSR's layers in its PyTorch program."""

import numpy as np

from lightbsr_jax.methods.kdsr.network import KDSR
from lightbsr_jax.methods.torch_layers import (
    Names,
    Shapes,
    count,
    numbered,
    projector,
    restorer,
    scale,
)


def layers(network: KDSR, prefix: str) -> Names:
    """Torch's names of all layers; `prefix` is that of the estimator's."""
    residual, body = network.residual_blocks, "restorer/body/blocks"
    names = {
        "estimator/conv_0": np.array(f"{prefix}E.0"),
        "converter/compress": np.array(f"{prefix}compress.0"),
    }
    for i in (1, 2, 3):
        names[f"estimator/conv_{i}"] = np.array(f"{prefix}E.{residual + 2 * i}")
    for i in (0, 1):
        numbers = [f"{prefix}E.{2 + r}.body.{2 * i}" for r in range(residual)]
        names[f"estimator/blocks/conv_{i}"] = np.array(numbers)
    for ours, theirs in {
        "dynamic/hidden": "da_conv1.kernel.0",
        "dynamic/kernel": "da_conv1.kernel.2",
        "conv": "conv1",
    }.items():
        template = f"G.body.0.body.{{}}.{theirs}"
        names[f"{body}/{ours}"] = numbered(template, network.blocks)
    return names | projector(prefix) | restorer("G.body.1")


def recognise(shapes: Shapes) -> tuple[KDSR, str] | None:
    """The network and role that tensors of such shapes are of; None for another's."""
    blocks = count(shapes, r"G\.body\.0\.body\.(\d+)\.da_conv1\.kernel\.")
    residual = count(shapes, r"E(?:_st)?\.E\.(\d+)\.body\.") - 2
    if not blocks or residual < 1:
        return None
    features = (*shapes.get("G.head.0.weight", ()), 64)[0]
    role = "student" if any(name.startswith("E_st.") for name in shapes) else "teacher"
    return KDSR(scale(shapes), features, blocks, residual), role
