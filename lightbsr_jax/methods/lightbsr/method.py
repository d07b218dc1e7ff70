"""The description of LightBSR for training, weights and inference."""

from lightbsr_jax.methods.lightbsr import onnx
from lightbsr_jax.methods.lightbsr.in_parts import IN_PARTS
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.lightbsr.recipe import RECIPE
from lightbsr_jax.methods.lightbsr.torch import layers, recognise
from lightbsr_jax.methods.method import UTILITIES, Method
from lightbsr_jax.methods.torch_layers import LONE, PRINCIPAL

METHOD = Method(
    title="LightBSR",
    network=LightBSR,
    roles={"teacher": PRINCIPAL, "student": LONE},
    privileged="prior",
    projecting=("teacher",),
    inherited=("estimator", "converter", "restorer"),
    distilled=("estimator", "converter"),
    contrasts="all",
    loss_range=255,
    reference="github.com/MJ-NCEPU/LightBSR",
    checkout=(
        "model/student.py",
        "model/teacher.py",
        "moco/builder.py",
        "loss/distillation_loss.py",
        *UTILITIES,
    ),
    published={"groups": 8, "blocks": 8},
    recipe=RECIPE,
    layers=layers,
    recognise=recognise,
    in_parts=IN_PARTS,
    to_onnx=onnx.write,
    onnx_parts=onnx.PARTS,
)
