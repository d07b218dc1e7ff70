"""Compilation by XLA: its options, its cache on disk, and a count of programs."""

import contextlib
import ctypes
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.core import Tracer

from lightbsr_jax import target
from lightbsr_jax.errors import UserError

_COMPILED = "/jax/core/compile/backend_compile_duration"
_FOUND = "/jax/compilation_cache/cache_hits"

_MOST_KEPT = 2_000_000_000  # bytes of programs
_DAMAGED = "Error reading persistent compilation cache entry"

# Operations that YNNPACK computes (see `_options`).
_NOTHING = ""
_PRODUCTS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_SUMS = "LIBRARY_FUSION_TYPE_REDUCE"


def keep_compiled_programs() -> None:
    """Caches compiled programs in the user's cache folder for later runs.

    JAX's own variables override this: JAX_COMPILATION_CACHE_DIR names another folder,
    JAX_ENABLE_COMPILATION_CACHE=false disables the cache, and
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS sets which programs it keeps.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None:
        return
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in some containers
        return
    folder = Path(root, "lightbsr_jax", "compiled")
    with contextlib.suppress(OSError):  # JAX warns of a folder that it cannot write to
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # the programs in it are executed
        _prune(folder)
    _mend_when_damaged(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX's default is one second; the upscaler has many smaller programs.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def check_devices() -> None:
    """Raises UserError if JAX_PLATFORMS names a device that JAX does not find."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: no plug-in
        wanted = _platforms()
        if not wanted:
            raise
        reason = str(error) or "install JAX for it as README.md shows"
        raise UserError(
            f"JAX_PLATFORMS={wanted}: JAX finds no such device ({reason})"
        ) from error


def _platforms() -> str | None:
    config: Any = jax.config
    return config.jax_platforms


def _prune(folder: Path) -> None:
    """Removes the oldest programs once the folder holds more than _MOST_KEPT bytes."""
    # XLA keeps a folder of its own among the programs for GPUs.
    entries = [entry for entry in os.scandir(folder) if entry.is_file()]
    files = [(entry.stat(), entry.path) for entry in entries]
    total = sum(status.st_size for status, _ in files)
    if total <= _MOST_KEPT:
        return
    for status, path in sorted(files, key=lambda file: file[0].st_mtime):
        Path(path).unlink(missing_ok=True)
        total -= status.st_size
        if total <= _MOST_KEPT // 2:
            return


def _mend_when_damaged(folder: Path) -> None:
    """Empties the folder when JAX warns of a damaged program, which JAX would keep."""
    show = warnings.showwarning

    def shown(message: Warning | str, *about: Any, **more: Any) -> None:
        if not str(message).startswith(_DAMAGED):
            show(message, *about, **more)
            return
        for path in folder.glob("*"):
            with contextlib.suppress(OSError):  # XLA's folder; what may only be read
                path.unlink(missing_ok=True)

    warnings.showwarning = shown


def inference_jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """jax.jit with the compiler options for programs without gradients.

    Called inside another traced program, it becomes part of that one.
    """
    within = jax.jit(function, **options)

    @functools.cache
    def outermost(fusions: str) -> Callable[..., Any]:
        return jax.jit(function, compiler_options=_options(fusions), **options)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        is_part = target.platform() != "cpu" or _traced((arguments, keywords))
        fusions = _PRODUCTS if target.has_narrow_products() else _NOTHING
        chosen = within if is_part else outermost(fusions)
        return chosen(*arguments, **keywords)

    return call


def training_pmap(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """jax.pmap with the compiler options for training steps.

    jax.pmap itself takes no compiler options; its ahead-of-time compiled programs do.
    These take longer to call and cannot span processes, so only a single process on
    CPUs uses them. They keep the JAX settings of the first call. `lower` is that of
    jax.pmap, to compile the step for other machines' devices.
    """
    mapped = jax.pmap(function, *args, **options)
    programs: dict[Any, Callable[..., Any]] = {}

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        is_elsewhere = target.platform() != "cpu" or jax.process_count() > 1
        if is_elsewhere or _traced(arguments) or not _options(_SUMS):
            return mapped(*arguments)
        leaves, tree = jax.tree.flatten(arguments)
        kinds = tree, *((leaf.shape, leaf.dtype) for leaf in leaves)
        if kinds not in programs:
            programs[kinds] = mapped.lower(*arguments).compile(_options(_SUMS))
            _give_back_memory()
        return programs[kinds](*arguments)

    vars(call)["lower"] = mapped.lower
    return call


def _give_back_memory() -> None:
    """Returns hundreds of megabytes of freed compiler memory to the system.

    glibc would keep them. With other C libraries this does nothing.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _traced(arguments: Any) -> bool:
    leaves = jax.tree.leaves(arguments)
    return any(isinstance(leaf, Tracer) for leaf in leaves)


@functools.cache
def _options(fusions: str) -> dict[str, str | int]:
    """XLA's options on a CPU: the fusions that YNNPACK computes, and the vector width.

    Eigen computes everything else: YNNPACK is slower at this network's products and
    convolutions in float32, but only YNNPACK multiplies in bfloat16. YNNPACK
    parallelises reductions, so training uses it for those; inference does not, so that
    its results are the same bits in every batch. Vectors are as wide as the CPU's, up
    to 512 bits, where XLA's default is 256.
    """
    options = {
        "xla_cpu_experimental_ynn_fusion_type": fusions,
        "xla_cpu_prefer_vector_width": 512,
    }
    return {name: value for name, value in options.items() if _known(name, value)}


@functools.cache
def _known(option: str, value: str | int) -> bool:
    """Returns whether this version of XLA has the option."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value})()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@dataclass
class Compilations:
    """Number and time of compilations, and of programs read from the cache."""

    programs: int = 0
    from_cache: int = 0  # the part of `programs` that was read from the cache
    seconds: float = 0.0


@contextlib.contextmanager
def counted() -> Iterator[Compilations]:
    """Counts the programs that are compiled inside the context."""
    count = Compilations()

    def on_duration(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED:
            count.programs += 1
            count.seconds += duration_secs

    def on_event(event: str, **_: str | int) -> None:
        if event == _FOUND:
            count.from_cache += 1

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)
    try:
        yield count
    finally:
        jax.monitoring.unregister_event_duration_listener(on_duration)
        jax.monitoring.unregister_event_listener(on_event)
