"""DASR's training parameters, from option.py and moco/builder.py of its program."""

from lightbsr_jax.methods.recipe import Adam, Contrast, Recipe

RECIPE = Recipe(
    adam=Adam(b1=0.9, b2=0.999, eps=1e-8),
    learning_rates=(1e-3, 1e-4),
    contrast=Contrast(momentum=0.999, temperature=0.07),
)
