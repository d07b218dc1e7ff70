"""Checkpoints: everything that a run needs to go on, and that its network needs.

WORKDIR/checkpoints/STEP/ holds three items:
model     {"params", "batch_stats", "basis"}: all that using the network takes; the
          parameters are the averaged ones where the run averages them
training  the rest of the run (optimiser, momentum branch, queue, counts)
about     JSON: the config, where the data stream was, and the items' checksums

All processes of a run call `save` and `run`; the first one writes.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from lightbsr_jax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Tree = dict[str, Any]
Result = TypeVar("Result")

_STORAGE_ERRORS = (OSError, ValueError, RuntimeError)  # what Orbax makes of a full disk


class Checkpoints:
    """The checkpoints of one working directory.

    Each is written whole or not at all, in the background. One that cannot be read, or
    whose content is not what was written, is passed over with a warning for the one
    before.
    """

    def __init__(
        self, workdir: str | Path, *, keep: int = 3, keep_every: int = 0
    ) -> None:
        """`keep` is how many of the newest are kept.

        Those of steps that `keep_every` divides are kept as well; with 0 none are.
        """
        self.workdir = Path(workdir)
        self._folder = (self.workdir / "checkpoints").absolute()
        self._set_aside_unlisted()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            create=True,
            # Else a folder that cannot be made is waited for, by the wall clock.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Those that there are, in order."""
        return sorted(self._manager.all_steps())

    def save(self, run: Any, basis: np.ndarray, about: Tree) -> None:
        """Write a run in the background; an earlier checkpoint of its step stays.

        `run` is a training.state.Run, `about` JSON-able. Raises UserError where this
        one, or the one before, cannot be written; earlier ones stay as they are.
        """
        # Copies: the loop goes on while they are written.
        run = jax.tree.map(lambda x: np.array(x), run)
        about = json.loads(json.dumps(about))
        model, training = _divided(run, np.asarray(basis))
        about = {**about, "checksums": [checksum(model), checksum(training)]}
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            training=ocp.args.StandardSave(training),
            about=ocp.args.JsonSave({**about, "checksum": _checksum_of_text(about)}),
        )
        try:
            self._manager.save(int(run.state.step), args=items)
        except _STORAGE_ERRORS as error:
            raise self._unwritable(error) from error

    def model(self, template: Callable[[Tree], Tree]) -> tuple[int, Tree, Tree]:
        """The newest step, its `about`, its {"params", "batch_stats", "basis"}.

        `template(about)` is a tree of the model's kind, of arrays or of their shapes.
        """

        def read(step: int) -> tuple[int, Tree, Tree]:
            about = self._about(step)
            return step, about, self._read(step, about, model=template(about))[0]

        return self._newest(read)

    def run(self, template: Callable[[Tree], tuple[Any, Any]]) -> tuple:
        """The newest run in host memory, its basis and its `about`.

        `template(about)` is a run and a basis of the same kind, or their shapes. What
        it raises as UserError is not taken for damage.
        """

        def read(step: int) -> tuple[Any, np.ndarray, Tree]:
            about = self._about(step)
            model, training = _divided(*template(about))
            model, training = self._read(step, about, model=model, training=training)
            return *_joined(model, training), about

        return self._newest(read)

    def set_aside_after(self, step: int) -> None:
        """Move checkpoints later than `step`, which are damaged, out of the way."""
        self._set_aside([s for s in self._manager.all_steps() if s > step])
        self._manager.reload()

    def wait(self) -> None:
        """Wait for the writing to end. Raises UserError where it failed."""
        try:
            self._manager.wait_until_finished()
        except _STORAGE_ERRORS as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        self._manager.close()

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Moves checkpoints out of the way; all processes wait for the first."""
        if jax.process_index() == 0:
            for step in steps:
                aside = self.workdir / "damaged_checkpoints"
                aside.mkdir(exist_ok=True)
                free = (aside / f"{step}.{n}" for n in range(1, 10**6))
                target = next(path for path in free if not path.exists())
                (self._folder / str(step)).rename(target)
                logging.warning("checkpoint %d is kept as %s", step, target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")

    def _set_aside_unlisted(self) -> None:
        """Sets those aside that Orbax cannot list, and no other beside them."""
        damaged = []
        if jax.process_index() == 0:
            listed = ocp.path.step.standard_name_format().find_all(self._folder)
            damaged = [found.step for found in listed if not _is_listed(found)]
        self._set_aside(damaged)

    def _newest(self, read: Callable[[int], Result]) -> Result:
        problems = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return read(step)
            except UserError:
                raise
            except Exception as error:  # damage shows as any kind of error
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                problems.append(f"{self._folder / str(step)} is damaged ({reason})")
                logging.warning("%s: taking the one before", problems[-1])
        if problems:
            raise UserError(f"no checkpoint can be read: {'; '.join(problems)}")
        raise FileNotFoundError(
            f"{self.workdir} holds no finished checkpoint yet: a run writes one at "
            "every config.checkpoint.every_steps and at its end"
        )

    def _about(self, step: int) -> Tree:
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        restored: Any = self._manager.restore(step, args=args)
        about = restored.about
        if about.pop("checksum") != _checksum_of_text(about):
            raise ValueError("about is not what was written")
        return about

    def _read(self, step: int, about: Tree, **templates: Any) -> list[Any]:
        """Items in host memory, in the order of their checksums."""
        shapes = jax.tree.map(
            lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), templates
        )
        args = {name: ocp.args.StandardRestore(shape) for name, shape in shapes.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        items = [restored[name] for name in templates]
        for name, item, expected in zip(
            templates, items, about["checksums"], strict=False
        ):
            if checksum(item) != expected:
                raise ValueError(f"the numbers of {name} are not what was written")
        return items

    def _unwritable(self, error: Exception) -> UserError:
        return UserError(
            f"a checkpoint could not be written to {self._folder}: {error}. Earlier "
            f"ones stay (steps {sorted(self._manager.all_steps())}): make room, and "
            "give the same command again"
        )


@contextmanager
def opened(workdir: str | Path) -> Iterator[Checkpoints]:
    """The checkpoints of a run, for reading.

    Raises FileNotFoundError for a folder that has none.
    """
    if not (Path(workdir) / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{workdir} holds no checkpoints: expected the --workdir of a train.py "
            "run, or what lightbsr convert made"
        )
    checkpoints = Checkpoints(workdir)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def _is_listed(found: Any) -> bool:
    """Whether what Orbax notes of a step can be read; damage shows as any error."""
    try:
        return found.commit_timestamp is not None
    except Exception:
        return False


def checksum(tree: Any) -> int:
    """A number that tells one tree of arrays from another."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).data, value)
    return value


def _checksum_of_text(about: Tree) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _divided(run: Any, basis: np.ndarray) -> tuple[Tree, Any]:
    """A run as the items `model` and `training`: nothing is written twice."""
    state, averaged = run.state, run.average is not None
    model = {
        "params": run.evaluated,
        "batch_stats": state.batch_stats,
        "basis": basis,
    }
    params = state.params if averaged else {}
    state = state.replace(params=params, batch_stats={})
    # On disk {} stands for what is not there.
    return model, run.replace(state=state, average={})


def _joined(model: Tree, training: Any) -> tuple[Any, np.ndarray]:
    """What `_divided` divided."""
    averaged = bool(training.state.params)
    state = training.state.replace(
        params=training.state.params if averaged else model["params"],
        batch_stats=model["batch_stats"],
    )
    average = model["params"] if averaged else None
    return training.replace(state=state, average=average), model["basis"]


def plain(config: "ConfigDict") -> Tree:
    """The config as it comes back from a checkpoint: JSON types only."""
    return json.loads(json.dumps(config.to_dict()))
