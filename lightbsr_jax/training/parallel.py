"""Steps over all devices, and the batch cut up for them.

The only file that maps. The state has no device axis: it goes in and comes out once,
the same on every device.
"""

import jax
import numpy as np

from lightbsr_jax.training.steps import AXIS, Step


def over_devices(step: Step) -> Step:
    """`step` on every device with its share of the crops; the state is donated."""
    return jax.pmap(
        step, AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0
    )


def split(crops: np.ndarray) -> np.ndarray:
    """The batch [B, ...] by devices: [N, B / N, ...]."""
    return crops.reshape(jax.local_device_count(), -1, *crops.shape[1:])
