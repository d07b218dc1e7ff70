"""Steps over all devices of all processes, and the batch cut up for them.

The only file that maps. The state has no device axis: it goes in and comes out once,
the same on every device. Rows of the global batch lie on devices in the order of their
processes, so that process i of n reads the i-th n-th of them.
"""

import zlib
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


def over_devices(step: Step) -> Step:
    """`step` on every device with its share of the crops; the state is donated."""
    return training_pmap(
        step,
        AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        donate_argnums=0,
        devices=_devices(),
    )


def on_one_device(update: Update, device: Device) -> Update:
    """`update` on `device` with the whole batch, to compare its numbers."""
    mapped = training_pmap(
        update, AXIS, in_axes=(None, 0, None), out_axes=None, devices=[device]
    )
    return lambda state, batch, teacher: mapped(
        state, jax.tree.map(lambda x: x[None], batch), teacher
    )


def split(rows: Any) -> Any:
    """A process's rows, arrays [B, ...], by its devices: [N, B / N, ...].

    Each device's part is on its way there, and need not have arrived.
    """
    devices = [d for d in _devices() if d.process_index == jax.process_index()]
    sharding = NamedSharding(Mesh(np.array(devices), AXIS), PartitionSpec(AXIS))
    return jax.tree.map(
        lambda x: jax.device_put(x.reshape(len(devices), -1, *x.shape[1:]), sharding),
        rows,
    )


def replicate(tree: Any) -> Any:
    """`tree` on every device, as a mapped step returns its state.

    A copy: the step may be given it to overwrite. (`device_put` may share memory with
    its argument, even when told not to.)
    """
    sharding = NamedSharding(Mesh(np.array(_devices()), AXIS), PartitionSpec())
    copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=sharding)
    return copy(jax.device_get(tree))


def share(array: np.ndarray) -> jax.Array:
    """`array` on every device, to read: no step may be given it to overwrite.

    Takes no more memory than the array, as `replicate` would.
    """
    sharding = NamedSharding(Mesh(np.array(_devices()), AXIS), PartitionSpec())
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def on_first_device(tree: Any) -> Any:
    """The first device's copy of a replicated `tree`."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def is_main_process() -> bool:
    """Whether this process is the one that logs, measures and writes."""
    return jax.process_index() == 0


def broadcast_from_main(number: int) -> int:
    """The first process's `number`, in all of them."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def check_same(facts: dict[str, Any]) -> None:
    """Raises UserError, in every process, where facts are not the same in all."""
    if jax.process_count() == 1:
        return
    own = [zlib.crc32(repr(fact).encode()) for fact in facts.values()]
    gathered = multihost_utils.process_allgather(np.array(own, np.uint32))
    different = [
        f"{name} ({fact!r} here)"
        for (name, fact), values in zip(facts.items(), gathered.T, strict=True)
        if np.unique(values).size > 1
    ]
    if different:
        raise UserError(f"not the same in all processes: {', '.join(different)}")


def _devices() -> list[Device]:
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
