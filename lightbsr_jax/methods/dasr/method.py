"""The description of DASR for training, weights and inference."""

from lightbsr_jax.methods.dasr import onnx
from lightbsr_jax.methods.dasr.network import DASR, Block
from lightbsr_jax.methods.dasr.recipe import RECIPE
from lightbsr_jax.methods.dasr.torch import layers, recognise
from lightbsr_jax.methods.method import UTILITIES, Method
from lightbsr_jax.methods.rows import groups_in_parts
from lightbsr_jax.methods.torch_layers import PRINCIPAL

METHOD = Method(
    title="DASR",
    network=DASR,
    roles={"network": PRINCIPAL},
    privileged=None,
    projecting=("network",),
    inherited=(),
    distilled=(),
    contrasts="pair",
    loss_range=255,
    reference="github.com/The-Learning-And-Vision-Atelier-LAVA/DASR",
    checkout=("model/blindsr.py", "moco/builder.py", *UTILITIES),
    published={"groups": 5, "blocks": 5},
    recipe=RECIPE,
    layers=layers,
    recognise=recognise,
    in_parts=groups_in_parts(Block(), reach=4),
    to_onnx=onnx.write,
)
