"""KDSR's training parameters, from option.py and the scripts of KDSR-classic.

No script sets Adam's betas: they are the options' defaults. Stage 1 is that of setting
2. The weights of the last stage are those of train_kdsrgan_x4ST.yml in KDSR-GAN.
"""

from lightbsr_jax.methods.recipe import Adam, Adversarial, Distillation, Recipe

RECIPE = Recipe(
    adam=Adam(b1=0.9, b2=0.999, eps=1e-8),
    learning_rates=(2e-4, 1e-4),
    # The published program leaves the L1 distance out.
    distillation=Distillation(temperature=0.15, l1_weight=0.0),
    adversarial=Adversarial(weight=1.0, perceptual_weight=1.0),
)
