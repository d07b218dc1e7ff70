"""LightBSR's training parameters, from section 4.1 of the paper and its program.

Adam's betas and the learning rates come from teacher_option.py and student_option.py,
the contrast from moco/builder.py, the distillation from loss/distillation_loss.py.
"""

from lightbsr_jax.methods.recipe import Adam, Contrast, Distillation, Recipe

RECIPE = Recipe(
    adam=Adam(b1=0.9, b2=0.99, eps=1e-8),
    learning_rates=(2e-4, 2e-4),
    contrast=Contrast(momentum=0.999, temperature=0.07),
    distillation=Distillation(temperature=0.15, l1_weight=0.1),
)
