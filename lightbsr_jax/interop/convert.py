"""Converting weights of the PyTorch references to a working directory, and back.

A converted working directory looks as training leaves it, at step 0 with a fresh
optimiser: the network, the basis of the prior and, for contrastive training, the
momentum branch and the queue. DASR publishes weights without these two; such weights
can be used but not trained further. BatchNorm's counts of updates, which the reference
stores and our training state does not, lie in `about`.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import prior, settings
from lightbsr_jax.models import packed, state_dict, torch_files, torch_names, vgg_file
from lightbsr_jax.models.checkpoint import Checkpoints, opened
from lightbsr_jax.models.state_dict import PUBLISHED_QUEUE, Momentum, StateDict
from lightbsr_jax.networks import vgg
from lightbsr_jax.networks.discriminator import Discriminator
from lightbsr_jax.spec import ModelSpec, RunSpec, Sees
from lightbsr_jax.training import contrast, optimizers
from lightbsr_jax.training.state import (
    ContrastiveState,
    Run,
    State,
    TrainState,
    Tree,
    fresh_contrastive_state,
    fresh_optimizer,
    fresh_run,
    fresh_train_state,
    with_discriminator,
)

_OPTIMIZER = optax.scale_by_adam()


def to_workdir(
    file: str | Path,
    workdir: str | Path,
    *,
    basis_file: str | Path | None = None,
    setting: settings.Name | None = None,
) -> ModelSpec:
    """Converts weights of a reference to a new working directory; returns their spec.

    `basis_file` is the PCA_matrix.mat of a teacher's training, and `setting` the one
    that a student was trained for. Raises UserError, and writes nothing, if a file is
    not a complete network of a reference.
    """
    out = Path(workdir).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{workdir} is not an empty folder: give a new one")
    tensors = torch_files.read(file)
    run = state_dict.infer(file, tensors, setting)
    if run.model.sees is Sees.PRIOR and basis_file is None:
        raise UserError(
            f"{file} is a teacher: it and its students work only with the basis of the "
            "prior that it was trained with. Give the reference's PCA_matrix.mat, from "
            "the teacher's folder, as --pca"
        )
    found = state_dict.from_tensors(file, tensors, run)
    basis = np.zeros(prior.BASIS_SHAPE, np.float32)
    if basis_file is not None:
        basis = torch_files.read_basis(basis_file)
    config = run.as_config()
    about = {
        "config": config,
        "source": {str(f): _sha256(f) for f in (file, basis_file) if f is not None},
        "counters": dict(found.counts),
    }

    def save(new: Path) -> None:
        checkpoints = Checkpoints(new)
        checkpoints.save(fresh_run(to_state(found), averaged=False), basis, about)
        checkpoints.wait()
        checkpoints.close()
        (new / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    atomic.replace(out, save)
    return run.model


def to_file(
    workdir: str | Path,
    file: str | Path,
    *,
    basis_file: str | Path | None = None,
    overwrite: bool = False,
) -> ModelSpec:
    """Writes a working directory's newest weights for the reference; returns the spec.

    `workdir` may be WORKDIR@STEP or WORKDIR@best. It may also name weights that come
    with the package, or a packed student. `basis_file` is the path for PCA_matrix.mat.
    Raises UserError for existing files, unless `overwrite` is set.
    """
    torch_files.check_suffix(file)
    for path in (file, basis_file):
        if path is not None:
            atomic.check_free(path, overwrite=overwrite)
    kept, basis = _kept(workdir)
    if basis_file is not None and not basis.any():
        raise UserError(f"{workdir} holds a student without a basis: leave --pca out")
    torch_files.write(file, state_dict.to_tensors(kept))
    if basis_file is not None:
        torch_files.write_basis(basis_file, basis)
    elif kept.run.model.sees is Sees.PRIOR:
        logging.warning(
            "without --pca=FILE.mat the reference makes a new basis, with which this "
            "teacher does not work"
        )
    _warn_of_size(kept.run)
    return kept.run.model


def vgg_to_file(file: str | Path, out: str | Path, *, overwrite: bool = False) -> bool:
    """Writes the convolutions of VGG19 alone, for a perceptual loss.

    Returns False, and writes nothing, if the state dict `file` lacks the names of
    torchvision's VGG networks. Raises UserError if `out` exists, unless `overwrite` is
    set, or if the file is of another VGG network.
    """
    tensors = torch_files.read(file)
    if not vgg_file.has_names(tensors):
        return False
    atomic.check_free(out, overwrite=overwrite)
    params = vgg_file.params_of(tensors, file, vgg.FEATURES)
    torch_files.write(out, vgg_file.tensors(params))
    return True


def to_state(found: StateDict) -> State:
    """Makes a training state at step 0 from the weights of a state dict."""
    shared = {
        "step": jnp.int32(0),
        "opt_state": fresh_optimizer(_OPTIMIZER, found.variables["params"]),
        **found.variables,
    }
    if found.momentum is None:
        return TrainState(**shared)
    return ContrastiveState(
        momentum_params=found.momentum.variables["params"],
        momentum_batch_stats=found.momentum.variables["batch_stats"],
        queue=found.momentum.queue,
        queue_pointer=jnp.int32(found.momentum.pointer),
        **shared,
    )


def from_state(state: State, run: RunSpec, counts: Mapping[str, int]) -> StateDict:
    """Makes a state dict of a training state and BatchNorm's `counts`."""
    momentum = None
    if isinstance(state, ContrastiveState):
        variables = {
            "params": state.momentum_params,
            "batch_stats": state.momentum_batch_stats,
        }
        momentum = Momentum(variables, state.queue, state.queue_pointer)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return StateDict(run, variables, momentum, counts)


def _kept(workdir: str | Path) -> tuple[StateDict, np.ndarray]:
    """Reads a working directory or a packed network as a state dict and its basis.

    Raises UserError for an ablation, and for a packed network of contrastive training,
    because packed files lack the momentum branch and the queue.
    """
    folder, step = packed.at_step(workdir)
    best = step == packed.BEST
    file = packed.best(folder) if best else packed.find(workdir)
    if file is None:
        wanted = None if step is None else int(step)
        with opened(folder) as checkpoints:
            shapes = partial(_run_shapes, source=workdir)
            run, basis, about = checkpoints.run(shapes, wanted)
        spec = _exchangeable(about, workdir)
        updates = int(run.state.step - run.skipped)
        state = run.state.replace(params=run.evaluated)
        counts = about.get("counters")
        if counts is None:
            counts = _counts(spec, updates)
        return from_state(state, spec, counts), basis
    about, tree = packed.read(file)
    spec = _exchangeable(about, file)
    if spec.contrast is not None:
        raise UserError(
            f"{file} is a {spec.model.kind} without momentum branch and queue: convert "
            "the working directory that it was packed from"
        )
    basis = tree.pop("basis")
    counts = _counts(spec, about["step"])
    return StateDict(spec, {"batch_stats": {}, **tree}, None, counts), basis


def _exchangeable(about: Tree, source: str | Path) -> RunSpec:
    """The spec of a checkpoint or packed file.

    Raises UserError for an ablation, which the reference does not have.
    """
    spec = RunSpec.from_config(about["config"], source)
    if spec.model.ablated:
        raise UserError(
            f"{source} holds an ablation (config.network, config.prior): the reference "
            "has no such network"
        )
    return spec


def _run_shapes(about: Tree, source: str | Path) -> tuple[Run, jax.ShapeDtypeStruct]:
    """The shapes of the run in a checkpoint, and of its basis."""
    spec = _exchangeable(about, source)
    optimizer = optimizers.make(spec.optimizer)

    def fresh(key: jax.Array) -> Run:
        variables = spec.model.fresh_variables(key)
        if spec.contrast is None:
            state = fresh_train_state(variables, optimizer)
            if spec.discriminator is not None:
                judge = Discriminator(spec.discriminator)
                state = with_discriminator(state, judge, _OPTIMIZER, key)
        else:
            size = spec.contrast.queue_size
            state = fresh_contrastive_state(variables, optimizer, key, queue_size=size)
        return fresh_run(state, averaged=spec.averaged)

    run = jax.eval_shape(fresh, jax.random.key(0))
    return run, jax.ShapeDtypeStruct(prior.BASIS_SHAPE, jnp.float32)


def _counts(run: RunSpec, step: int) -> dict[str, int]:
    """BatchNorm's counts after `step` steps of our training."""
    network, visits = run.model.make_network(), [1, 1]
    if run.contrast is not None:
        pairs, crops = run.model.entry.contrasts, run.contrast.crops
        if pairs is None or crops is None:
            raise UserError(
                f"the config of this {run.model.kind} lacks contrast.crops, so the "
                "counts of its BatchNorm updates are unknown: convert the state dict "
                "that it comes from again"
            )
        pairing = contrast.pairing(pairs, crops)
        visits = [len(pairing.visits), pairing.positives.shape[1]]
    branches = zip(state_dict.estimators(run), visits, strict=False)
    return {
        name: step * times
        for branch, times in branches
        for name in torch_names.counters(network, branch)
    }


def _warn_of_size(run: RunSpec) -> None:
    method, sizes = run.model.entry, dict(run.model.network)
    published = dict(method.published)
    if run.contrast is not None:
        published["queue_size"] = PUBLISHED_QUEUE
        sizes["queue_size"] = run.contrast.queue_size
    others = [
        f"{name} {sizes[name]} for {size}"
        for name, size in published.items()
        if sizes[name] != size
    ]
    if others:
        logging.warning(
            "the published reference cannot load these weights, because its code fixes "
            "other sizes: %s",
            ", ".join(others),
        )


def _sha256(file: str | Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
