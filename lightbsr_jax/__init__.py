"""LightBSR in JAX: lightweight blind super-resolution, trained, measured and used.

The public names are `Upscaler`, `upscale_file`, `Model`, `load` and `degradation`; they
are imported when they are first used, so that importing the package imports nothing
else.

Dimension letters, in comments such as `# [B, D, h, w, C]`:
B batch, D crops of one image, H W high resolution, h w low resolution, C channels,
K kernel size, P channels of the degradation prior, Q queue length, s scale.
"""

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightbsr_jax.imaging import degradation
    from lightbsr_jax.inference.folder import upscale_file
    from lightbsr_jax.inference.upscaler import Upscaler
    from lightbsr_jax.models.load import load
    from lightbsr_jax.models.model import Model

__version__ = "0.1.0"
__all__ = ["Model", "Upscaler", "degradation", "load", "upscale_file"]

_HOMES = {
    "Model": "lightbsr_jax.models.model:Model",
    "Upscaler": "lightbsr_jax.inference.upscaler:Upscaler",
    "degradation": "lightbsr_jax.imaging.degradation",
    "load": "lightbsr_jax.models.load:load",
    "upscale_file": "lightbsr_jax.inference.folder:upscale_file",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = pkgutil.resolve_name(_HOMES[name])
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
