"""Running steps over all devices of all processes, and splitting the batch.

Only this file maps over devices. The state has no device axis: it is the same on every
device. Devices get rows of the global batch in the order of their processes, so that
process i of n reads the i-th of n equal parts.
"""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lightbsr_jax.compilation import training_pmap
from lightbsr_jax.errors import UserError
from lightbsr_jax.training.steps import Step
from lightbsr_jax.training.updates import AXIS, Update
from lightbsr_jax.typed import Device


def over_devices(step: Step, devices: Sequence[Device] | None = None) -> Step:
    """Maps `step` over devices, each with its share of crops; donates the state.

    The devices are those of all processes, or the given ones, for example of a topology
    to compile for: the result has the `lower` of a jitted function.
    """
    return training_pmap(
        step,
        AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        donate_argnums=0,
        devices=_devices() if devices is None else list(devices),
    )


def on_one_device(update: Update, device: Device) -> Update:
    """Runs `update` on one device with the whole batch, for comparisons."""
    mapped = training_pmap(
        update, AXIS, in_axes=(None, 0, None), out_axes=None, devices=[device]
    )
    return lambda state, batch, frozen: mapped(
        state, jax.tree.map(lambda x: x[None], batch), frozen
    )


def split(rows: Any) -> Any:
    """Splits a process's rows, arrays [B, ...], over its devices: [N, B / N, ...].

    The transfer to each device is asynchronous.
    """
    devices = [d for d in _devices() if d.process_index == jax.process_index()]
    sharding = NamedSharding(Mesh(np.array(devices), AXIS), PartitionSpec(AXIS))
    return jax.tree.map(
        lambda x: jax.device_put(x.reshape(len(devices), -1, *x.shape[1:]), sharding),
        rows,
    )


def replicate(tree: Any) -> Any:
    """Copies `tree` to every device, laid out like the state of a mapped step.

    A step may overwrite the copy. (`device_put` may share memory with its argument,
    even if it is asked not to.)
    """
    sharding = NamedSharding(Mesh(np.array(_devices()), AXIS), PartitionSpec())
    copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=sharding)
    return copy(jax.device_get(tree))


def share(array: np.ndarray) -> jax.Array:
    """Puts `array` on every device, read-only: steps must not overwrite it.

    Unlike `replicate`, it needs no further memory.
    """
    sharding = NamedSharding(Mesh(np.array(_devices()), AXIS), PartitionSpec())
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def on_first_device(tree: Any) -> Any:
    """The first device's copy of a replicated `tree`."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def is_main_process() -> bool:
    """Returns whether this process is the one that logs, measures and writes."""
    return jax.process_index() == 0


def broadcast_from_main(number: int) -> int:
    """Sends the first process's `number` to all processes."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def meet() -> None:
    """Waits until all processes have come here, however long that takes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("all processes meet")


def check_same(facts: dict[str, Any]) -> None:
    """Raises UserError, in every process, if facts differ between processes."""
    if jax.process_count() == 1:
        return
    counts = multihost_utils.process_allgather(np.int32(len(facts)))
    if np.unique(counts).size > 1:
        raise UserError(
            "the processes have configs of different kinds; start all of them with the "
            "same command"
        )
    own = [zlib.crc32(repr(fact).encode()) for fact in facts.values()]
    gathered = multihost_utils.process_allgather(np.array(own, np.uint32))
    different = [
        f"{name} ({fact!r} here)"
        for (name, fact), values in zip(facts.items(), gathered.T, strict=True)
        if np.unique(values).size > 1
    ]
    if different:
        raise UserError(
            f"not the same in all processes: {', '.join(different)}; start all of them "
            "with the same command and data"
        )


def _devices() -> list[Device]:
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
