"""Checkpoints: the complete state of a run, with its network readable separately.

WORKDIR/checkpoints/STEP/ holds three items:
model     {"params", "batch_stats", "basis"}: everything needed to use the network; the
          parameters are the averaged ones if the run averages them
training  the rest of the run (optimiser, momentum branch, queue, counts)
about     JSON: the config, the position of the data stream, and the items' checksums

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

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Tree = dict[str, Any]
Result = TypeVar("Result")

_STORAGE_ERRORS = (OSError, ValueError, RuntimeError)  # Orbax's errors on a full disk
_LONGEST = 300  # seconds that processes wait for one that cannot write


class Checkpoints:
    """The checkpoints of one working directory.

    Each is written atomically, in the background. If one cannot be read or fails its
    checksum, a warning is logged and the previous one is used.
    """

    def __init__(
        self, workdir: str | Path, *, keep: int = 3, keep_every: int = 0
    ) -> None:
        """`keep` is how many of the newest are kept.

        Those of steps that `keep_every` divides are kept as well; with 0 none are.
        """
        self.workdir = Path(workdir)
        self._folder = (self.workdir / "checkpoints").absolute()
        self._synced: set[str] = set()
        self._set_aside_unlisted()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            create=True,
            # Else a folder that cannot be made is waited for, by the wall clock.
            async_options=ocp.AsyncOptions(
                create_directories_asynchronously=False,
                timeout_secs=_LONGEST,
                post_finalization_callback=self._sync,
            ),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Those that there are, in order."""
        return sorted(self._manager.all_steps())

    def save(self, run: Any, basis: np.ndarray, about: Tree) -> None:
        """Writes a run in the background, unless its step has a checkpoint already.

        `run` is a training.state.Run, `about` JSON-able. Raises UserError if this
        checkpoint or the previous one cannot be written; earlier ones stay unchanged.
        """
        # Copy: the loop continues while these are written.
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

    def model(
        self, template: Callable[[Tree], Tree], step: int | None = None
    ) -> tuple[int, Tree, Tree]:
        """Reads the newest step, its `about` and {"params", "batch_stats", "basis"}.

        `template(about)` returns a tree like the model, of arrays or of shapes. With
        `step` that checkpoint is read; UserError if there is none.
        """

        def read(step: int) -> tuple[int, Tree, Tree]:
            about = self._about(step)
            return step, about, self._read(step, about, model=template(about))[0]

        return self._newest(read, step)

    def run(
        self, template: Callable[[Tree], tuple[Any, Any]], step: int | None = None
    ) -> tuple:
        """Reads the newest run into host memory, with its basis and its `about`.

        `template(about)` returns a run and a basis like them, or their shapes. If it
        raises UserError, that propagates; it is not treated as damage. `step` is as
        for `model`.
        """

        def read(step: int) -> tuple[Any, np.ndarray, Tree]:
            about = self._about(step)
            model, training = _divided(*template(about))
            model, training = self._read(step, about, model=model, training=training)
            return *_joined(model, training), about

        return self._newest(read, step)

    def set_aside_after(self, step: int) -> None:
        """Moves checkpoints later than `step`, which are damaged, to another folder."""
        self._set_aside([s for s in self._manager.all_steps() if s > step])
        self._manager.reload()

    def wait(self) -> None:
        """Waits until all writing is finished. Raises UserError if it failed."""
        try:
            self._manager.wait_until_finished()
            self._sync()
        except _STORAGE_ERRORS as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Ends the writing; a checkpoint that cannot be written is only a warning.

        `wait` raises that error. Without it, another error is on its way to the user.
        """
        try:
            self._manager.close()
        except _STORAGE_ERRORS as error:
            logging.warning("%s", self._unwritable(error))

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
        """Sets only those checkpoints aside that Orbax cannot list."""
        damaged = []
        if jax.process_index() == 0:
            listed = ocp.path.step.standard_name_format().find_all(self._folder)
            damaged = [found.step for found in listed if not _is_listed(found)]
        self._set_aside(damaged)

    def _sync(self) -> None:
        """Waits until new checkpoints are on the disk, which Orbax does not do.

        It calls this in the background, before a checkpoint gets its final name.
        """
        if jax.process_index() > 0:
            return
        for name in {path.name for path in self._folder.iterdir()} - self._synced:
            atomic.sync_all(self._folder / name)
            if name.isdigit():
                self._synced.add(name)
        atomic.sync(self._folder)

    def _newest(
        self, read: Callable[[int], Result], wanted: int | None = None
    ) -> Result:
        """Reads the newest undamaged checkpoint, or the one of the step `wanted`."""
        steps, problems = self.steps(), []
        if wanted is not None and wanted not in steps:
            raise UserError(
                f"{self.workdir} has no checkpoint of step {wanted}, but of "
                f"{', '.join(map(str, steps)) or 'none'}"
            )
        for step in reversed(steps if wanted is None else [wanted]):
            try:
                return read(step)
            except UserError:
                raise
            except Exception as error:  # damage shows as any kind of error
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                problems.append(f"{self._folder / str(step)} is damaged ({reason})")
                if wanted is None:
                    logging.warning("%s: using the previous one", problems[-1])
        if problems:
            raise UserError(
                f"no checkpoint can be read: {'; '.join(problems)}: restore one from a "
                "copy, or start a new run in another --workdir"
            )
        raise FileNotFoundError(
            f"{self.workdir} holds no finished checkpoint yet: a run writes one at "
            "every config.checkpoint.every_steps and at its end"
        )

    def _about(self, step: int) -> Tree:
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        restored: Any = self._manager.restore(step, args=args)
        about = restored.about
        if about.pop("checksum") != _checksum_of_text(about):
            raise ValueError("about does not match its checksum")
        return about

    def _read(self, step: int, about: Tree, **templates: Any) -> list[Any]:
        """Reads items into host memory, in the order of their checksums."""
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
                raise ValueError(f"the numbers of {name} do not match their checksum")
        return items

    def _unwritable(self, error: Exception) -> UserError:
        reason: BaseException = error
        # An error of one of several processes is followed by that of their meeting.
        if isinstance(error, jax.errors.JaxRuntimeError) and error.__context__:
            reason = error.__context__
        return UserError(
            f"a checkpoint could not be written to {self._folder}: {reason}. Earlier "
            f"ones are kept (steps {sorted(self._manager.all_steps())}): free space, "
            "and repeat the same command"
        )


@contextmanager
def opened(workdir: str | Path) -> Iterator[Checkpoints]:
    """Opens the checkpoints of a run to read them.

    Raises FileNotFoundError if the folder has none.
    """
    if not (Path(workdir) / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{workdir} holds no checkpoints: expected the --workdir of a train.py "
            "run, or a working directory made by lightbsr convert"
        )
    checkpoints = Checkpoints(workdir)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def _is_listed(found: Any) -> bool:
    """Returns whether Orbax's metadata of a step is readable (any error: damage).

    It is not damage if the run that writes here has just deleted the checkpoint.
    """
    try:
        return found.commit_timestamp is not None
    except Exception:
        return not found.path.exists()


def checksum(tree: Any) -> int:
    """A checksum of a tree of arrays."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).data, value)
    return value


def _checksum_of_text(about: Tree) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _divided(run: Any, basis: np.ndarray) -> tuple[Tree, Any]:
    """Divides a run into the items `model` and `training`, without duplicates."""
    state, averaged = run.state, run.average is not None
    model = {
        "params": run.evaluated,
        "batch_stats": state.batch_stats,
        "basis": basis,
    }
    params = state.params if averaged else {}
    state = state.replace(params=params, batch_stats={})
    # On disk {} stands for missing parts.
    return model, run.replace(state=state, average={})


def _joined(model: Tree, training: Any) -> tuple[Any, np.ndarray]:
    """Joins the items of `_divided` to a run and its basis."""
    averaged = bool(training.state.params)
    state = training.state.replace(
        params=training.state.params if averaged else model["params"],
        batch_stats=model["batch_stats"],
    )
    average = model["params"] if averaged else None
    return training.replace(state=state, average=average), model["basis"]


def plain(config: "ConfigDict") -> Tree:
    """Converts a config to JSON types, as in a checkpoint."""
    return json.loads(json.dumps(config.to_dict()))
