"""The platform that is traced for: the only place that asks for it.

Formulations of one and the same operation differ by platform, and are chosen while a
program is traced. That is for this process's own devices, unless the program is
compiled ahead for devices that are elsewhere.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import jax

# Part of the key of JAX's caches: what was traced outside is traced again inside.
_platform = jax.make_user_context(None)


def compiling_for(platform: str) -> AbstractContextManager[None]:
    """Context in which all that is traced is for `platform`: "cpu", "gpu" or "tpu"."""
    return _platform(platform)


def platform() -> str:
    """The platform that is traced for, by default that of JAX's first device."""
    return _platform.value or jax.default_backend()


@contextmanager
def on_host() -> Iterator[None]:
    """Context in which JAX computes on the host's processor, where it may.

    For what is computed once and is to be the same on every machine. (A process that is
    told of its accelerator alone has no other device: it computes there.)
    """
    try:
        processor = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        yield
        return
    with jax.default_device(processor), compiling_for("cpu"):
        yield
