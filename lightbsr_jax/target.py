"""The platform that programs are traced for; only this module asks for it.

An operation may have several formulations, and tracing chooses one by platform. By
default this is the platform of the process's own devices; a program can also be
compiled for absent devices.
"""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import jax

from lightbsr_jax.typed import Device

# Parts of the key of JAX's caches, so functions are traced anew inside a context.
_platform = jax.make_user_context(None)
_narrow = jax.make_user_context(False)


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


def narrow_products() -> AbstractContextManager[None]:
    """Context that traces products and convolutions in bfloat16, on a CPU.

    Their sums, maps and everything else stay in float32.
    """
    return _narrow(True)


def wide_products() -> AbstractContextManager[None]:
    """Context in which `narrow_products` has no effect."""
    return _narrow(False)


def has_narrow_products() -> bool:
    """Returns whether `narrow_products` is active."""
    return _narrow.value


@functools.cache
def processor_features() -> frozenset[str]:
    """Names of what this machine's processor offers, as Linux spells them.

    Other systems do not tell: the set is empty.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = (line for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").partition(":")[2].split())


def multiplies_bfloat16() -> bool:
    """Returns whether the processor has a unit for bfloat16 products (AMX)."""
    return "amx_bf16" in processor_features()


def trains_faster_in_bfloat16(device: Device) -> bool:
    """Returns whether training takes less time in bfloat16 than in float32 there.

    TPUs and NVIDIA's GPUs since Ampere (compute capability 8.0) multiply bfloat16; of
    other GPUs it is not known. On CPUs training gains nothing (docs/speed.md).
    """
    capability = str(getattr(device, "compute_capability", ""))
    major = capability.partition(".")[0]
    return device.platform == "tpu" or (major.isdecimal() and int(major) >= 8)
