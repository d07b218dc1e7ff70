"""Checkpoints: everything that a run needs to go on, and that its network needs.

WORKDIR/checkpoints/STEP/ holds three items:
model     {"params", "batch_stats", "basis"}: all that using the network takes
training  the rest of the training state (optimiser, momentum branch, queue)
about     JSON: the config, and where the data stream was
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

Tree = dict[str, Any]


class Checkpoints:
    """The checkpoints of one working directory."""

    def __init__(self, workdir: str | Path, *, keep: int = 3) -> None:
        """`keep` is how many of the newest are kept."""
        self.workdir = Path(workdir)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(
            (self.workdir / "checkpoints").absolute(), options=options
        )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: Any, basis: np.ndarray, about: Tree) -> None:
        """Write a training state in the background; an earlier one of its step stays.

        `state` is a TeacherState or StudentState, `about` JSON-able.
        """
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(_model(state, basis)),
                training=ocp.args.StandardSave(_without_model(state)),
                about=ocp.args.JsonSave(about),
            ),
        )

    def about(self) -> Tree:
        """What was saved as `about` at the latest step."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        return self._manager.restore(self.latest_step(), args=args).about

    def model(self, template: Tree) -> Tree:
        """The latest {"params", "batch_stats", "basis"}, on the first device.

        `template` is a tree of their kind, of arrays or of their shapes.
        """
        return self._restore(model=_on(jax.local_devices()[:1], template)).model

    def state(self, template: Any, basis: np.ndarray) -> Any:
        """The latest training state, on all devices; `template` is one of its kind."""
        model = _model(template, basis)
        restored = self._restore(
            model=_on(jax.devices(), model),
            training=_on(jax.devices(), _without_model(template)),
        )
        return restored.training.replace(
            params=restored.model["params"],
            batch_stats=restored.model["batch_stats"],
        )

    def close(self) -> None:
        """Wait for the writing to end."""
        self._manager.close()

    def _restore(self, **templates: Any) -> Any:
        args = {k: ocp.args.StandardRestore(v) for k, v in templates.items()}
        return self._manager.restore(
            self.latest_step(), args=ocp.args.Composite(**args)
        )


def _model(state: Any, basis: np.ndarray) -> Tree:
    return {
        "params": state.params,
        "batch_stats": state.batch_stats,
        "basis": basis,
    }


def _without_model(state: Any) -> Any:
    return state.replace(params={}, batch_stats={})


def _on(devices: list[jax.Device], tree: Any) -> Any:
    """The tree's shapes, to be restored as copies on `devices`."""
    sharding = NamedSharding(Mesh(np.array(devices), "data"), PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def plain(config: ConfigDict) -> Tree:
    """The config as it comes back from a checkpoint: JSON types only."""
    return json.loads(json.dumps(config.to_dict()))


def differences(saved: Tree, config: Tree, free: tuple[str, ...]) -> list[str]:
    """Lines "field: was A, is B" where two plain configs differ.

    `free` lists the fields and groups of fields that may.
    """
    flat_saved, flat_config = (
        flatten_dict(saved, sep="."),
        flatten_dict(config, sep="."),
    )
    lines = []
    for field in sorted(flat_saved | flat_config):
        was, now = flat_saved.get(field), flat_config.get(field)
        if was != now and not field.startswith(free):
            lines.append(f"{field}: was {was!r}, is {now!r}")
    return lines
