"""The description of KDSR for training, weights and inference."""

from lightbsr_jax.methods.kdsr import onnx
from lightbsr_jax.methods.kdsr.network import KDSR, Block
from lightbsr_jax.methods.kdsr.recipe import RECIPE
from lightbsr_jax.methods.kdsr.torch import layers, recognise
from lightbsr_jax.methods.method import UTILITIES, Method
from lightbsr_jax.methods.rows import blocks_in_parts
from lightbsr_jax.methods.torch_layers import LONE

METHOD = Method(
    title="KDSR",
    network=KDSR,
    roles={"teacher": LONE, "student": "E_st."},
    privileged="hr",
    projecting=("teacher", "student"),
    # The published program drops the teacher's estimator, because its tensors have
    # other names in a student.
    inherited=("restorer",),
    distilled=("estimator", "projector"),
    contrasts=None,
    loss_range=1,
    reference="github.com/Zj-BinXia/KDSR (its folder KDSR-classic)",
    checkout=("model_TA/blindsr.py", "model_ST/blindsr.py", *UTILITIES),
    published={},  # sizes are options of the published program
    recipe=RECIPE,
    layers=layers,
    recognise=recognise,
    in_parts=blocks_in_parts(Block(), reach=2),
    to_onnx=onnx.write,
)
