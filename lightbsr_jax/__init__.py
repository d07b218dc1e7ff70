"""LightBSR in JAX: lightweight blind super-resolution, trained, measured and used.

Dimension letters, in comments such as `# [B, D, h, w, C]`:
B batch, D crops of one image, H W high resolution, h w low resolution, C channels,
K kernel size, P channels of the degradation prior, Q queue length, s scale.
"""

__version__ = "0.1.0"
