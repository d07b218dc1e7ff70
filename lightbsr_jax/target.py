"""The platform that programs are traced for; only this module asks for it.

An operation may have several formulations, and tracing chooses one by platform. By
default this is the platform of the process's own devices; a program can also be
compiled for absent devices.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import jax

# It is part of the key of JAX's caches, so functions are traced anew inside a context.
_platform = jax.make_user_context(None)


def compiling_for(platform: str) -> AbstractContextManager[None]:
    """Context that traces for `platform`: "cpu", "gpu" or "tpu"."""
    return _platform(platform)


def platform() -> str:
    """The platform to trace for, by default that of JAX's first device."""
    return _platform.value or jax.default_backend()


@contextmanager
def on_host() -> Iterator[None]:
    """Context that computes on the host's processor, if JAX has it as a device.

    It is for values that are computed once and should be equal on all machines. A
    process whose JAX has only the accelerator computes on the accelerator.
    """
    try:
        processor = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        yield
        return
    with jax.default_device(processor), compiling_for("cpu"):
        yield
