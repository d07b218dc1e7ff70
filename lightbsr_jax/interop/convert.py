"""Weights from the PyTorch references into a working directory, and back.

A converted working directory is one that training leaves, at step 0 and with a fresh
optimiser: the network, the basis of the prior and, of what learns by contrast, the
momentum branch and the queue. DASR publishes weights without these two; such a file is
for use alone. What the reference keeps and our training state does not, BatchNorm's
counts of updates, lies in `about`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import prior
from lightbsr_jax.imaging.settings import SETTINGS
from lightbsr_jax.methods import registry
from lightbsr_jax.methods.registry import METHODS
from lightbsr_jax.methods.torch_layers import MOMENTUM
from lightbsr_jax.models import packed, torch_files, torch_names
from lightbsr_jax.models.checkpoint import Checkpoints, opened
from lightbsr_jax.models.model import Model
from lightbsr_jax.models.torch_names import QUEUE, QUEUE_POINTER
from lightbsr_jax.training import contrast
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
)

Tensors = Mapping[str, np.ndarray]

# What the published LightBSR builds, and so what it can load.
PUBLISHED = {"groups": 8, "blocks": 8, "queue_size": 8192}

_OPTIMIZER = optax.scale_by_adam()
_SHOWN = 3  # names that an error lists of each kind


def to_workdir(
    file: str | Path,
    workdir: str | Path,
    *,
    basis_file: str | Path | None = None,
    setting: int | None = None,
) -> str:
    """Convert a reference's weights into a new working directory; says what they are.

    `basis_file` is the PCA_matrix.mat of a teacher's training, `setting` what a
    student was trained for. Raises UserError, and writes nothing, for files that are
    not a whole network of a reference.
    """
    out = Path(workdir).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{workdir} is not an empty folder: give a new one")
    tensors = torch_files.read(file)
    config = infer(file, tensors, setting)
    if _sees_prior(config) and basis_file is None:
        raise UserError(
            f"{file} is a teacher, which is useless without the basis of the prior "
            "that it was trained with, and so is any student of it: give the "
            "reference's PCA_matrix.mat, in the teacher's folder, as --pca"
        )
    state = to_state(file, tensors, config)
    basis = np.zeros(prior.BASIS_SHAPE, np.float32)
    if basis_file is not None:
        basis = torch_files.read_basis(basis_file)
    about = {
        "config": config,
        "source": {str(f): _sha256(f) for f in (file, basis_file) if f is not None},
        "counters": {name: int(tensors[name]) for name in _counters(config)},
    }

    def save(new: Path) -> None:
        checkpoints = Checkpoints(new)
        checkpoints.save(fresh_run(state, averaged=False), basis, about)
        checkpoints.wait()
        checkpoints.close()
        (new / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    atomic.replace(out, save)
    return _describe(config)


def load(file: str | Path) -> Model:
    """The network in a reference's state dict, ready for pictures.

    Raises UserError for files that are not a whole network of a reference, and for
    teachers.
    """
    tensors = torch_files.read(file)
    # What a student was trained for its weights do not tell, and upscaling does not
    # depend on it; the degradations that it is explained by are those of both settings.
    config = infer(file, tensors, otherwise=2)
    if config["role"] == "teacher":
        raise UserError(
            f"{file} is a {registry.called(config)}, which sees what nobody knows of a "
            "picture: give a student of it"
        )
    state = to_state(file, tensors, config)
    return Model(
        role=config["role"],
        setting=config["setting"],
        network=registry.make_network(config),
        variables={"params": state.params, "batch_stats": state.batch_stats},
        basis=np.zeros(prior.BASIS_SHAPE, np.float32),
    )


def to_file(
    workdir: str | Path,
    file: str | Path,
    *,
    basis_file: str | Path | None = None,
    overwrite: bool = False,
) -> str:
    """Write a working directory's newest weights for the reference; says what they are.

    In its place may stand weights that come with the package, or a packed student.
    `basis_file` is where its PCA_matrix.mat goes. Raises UserError for files that are
    there already, unless `overwrite`.
    """
    torch_files.check_suffix(file)
    for path in (file, basis_file):
        if path is not None and Path(path).exists() and not overwrite:
            raise UserError(f"{path} exists: give another name, or --overwrite")
    found = packed.find(workdir)
    if found is not None:
        run, basis, about = _packed_run(found)
    else:
        with opened(workdir) as checkpoints:
            run, basis, about = checkpoints.run(_run_shapes)
    if basis_file is not None and not basis.any():
        raise UserError(
            f"{workdir} holds a student that came without a basis: leave --pca out"
        )
    config = about["config"]
    updates = int(run.state.step - run.skipped)
    counts = about.get("counters") or _counts(config, updates)
    state = run.state.replace(params=run.evaluated)
    torch_files.write(file, to_tensors(state, config, counts))
    if basis_file is not None:
        torch_files.write_basis(basis_file, basis)
    elif _sees_prior(config):
        logging.warning(
            "without --pca=FILE.mat the reference makes a basis of its own, with which "
            "this teacher is useless"
        )
    _warn_of_size(config)
    return _describe(config)


def infer(
    file: str | Path,
    tensors: Tensors,
    setting: int | None = None,
    *,
    otherwise: int | None = None,
) -> Tree:
    """The config that tensors' names and shapes tell of: method, role and sizes.

    Only those of LightBSR's teacher tell the setting. Raises UserError where it is
    neither told nor given (nor `otherwise`), or both and different.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        name, network, role = torch_names.infer(shapes)
    except ValueError as error:
        raise UserError(
            f"{file} holds no {', '.join(m.title for m in METHODS.values())} of the "
            f"references: {error}, but {_first(tensors)}"
        ) from None
    # Configs of LightBSR do not name it.
    config = {"role": role} | ({"method": name} if name != "lightbsr" else {})
    sees_prior = _sees_prior(config)
    told = None
    if sees_prior:
        channels = torch_names.prior_channels(shapes)
        told = {s.prior_channels: s.name for s in SETTINGS.values()}.get(channels)
    elif setting is None and otherwise is None:
        raise UserError(
            f"{file} is a {registry.called(config)}, whose weights do not tell what "
            "degradations it was trained for: give --setting=1 (isotropic blur; the "
            "reference's folder ends in _iso) or --setting=2 (anisotropic blur and "
            "noise; _aniso)"
        )
    if None not in (told, setting) and told != setting:
        raise UserError(
            f"{file} is a teacher of setting {told}, not {setting}: leave --setting out"
        )
    config |= {
        "setting": told or setting or otherwise or 1,
        "scale": network.scale,
        "network": registry.sizes(network),
    }
    # DASR's published files hold the network alone.
    if sees_prior or (role == "network" and QUEUE in shapes):
        queue = shapes.get(QUEUE, ())
        size = queue[1] if len(queue) == 2 else PUBLISHED["queue_size"]
        config["contrast"] = {"queue_size": size}
    return config


def to_state(file: str | Path, tensors: Tensors, config: Tree) -> State:
    """A training state before its first step with these weights.

    Raises UserError where the tensors are not those of the config's network, with all
    their names; warns of numbers that are not finite.
    """
    shapes = _shapes(config)
    network = registry.make_network(config)
    _check(file, tensors, config)
    filled = [
        torch_names.from_torch(tensors, variables, network, estimator)
        for variables, estimator in _branches(shapes, config)
    ]
    shared = {
        "step": jnp.int32(0),
        "opt_state": fresh_optimizer(_OPTIMIZER, filled[0]["params"]),
        "batch_stats": {},  # KDSR has none
        **filled[0],
    }
    if "contrast" not in config:
        return TrainState(**shared)
    return ContrastiveState(
        momentum_params=filled[1]["params"],
        momentum_batch_stats=filled[1]["batch_stats"],
        queue=np.ascontiguousarray(tensors[QUEUE].T),
        queue_pointer=jnp.int32(tensors[QUEUE_POINTER][0]),
        **shared,
    )


def to_tensors(
    state: State, config: Tree, counts: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """All tensors of the reference's state dict; `counts` are BatchNorm's, by name."""
    network = registry.make_network(config)
    tensors = torch_names.mean_shift(network.IMAGE_RANGE)
    for variables, estimator in _branches(state, config):
        tensors |= torch_names.to_torch(variables, network, estimator)
    if isinstance(state, ContrastiveState):
        tensors[QUEUE] = np.asarray(state.queue).T
        tensors[QUEUE_POINTER] = np.array([state.queue_pointer], np.int64)
    return tensors | {name: np.array(count, np.int64) for name, count in counts.items()}


def blank(config: Tree) -> dict[str, np.ndarray]:
    """All tensors of the reference's state dict for a config, holding zeros."""
    empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _shapes(config))
    return to_tensors(empty, config, dict.fromkeys(_counters(config), 0))


def _branches(state: State, config: Tree) -> list[tuple[Tree, str]]:
    """The variables in a training state and the reference's name of their estimator."""
    principal = {"params": state.params, "batch_stats": state.batch_stats}
    estimator = registry.of(config).roles[config["role"]]
    if isinstance(state, TrainState):
        return [(principal, estimator)]
    momentum = {
        "params": state.momentum_params,
        "batch_stats": state.momentum_batch_stats,
    }
    return [(principal, estimator), (momentum, MOMENTUM)]


def _sees_prior(config: Tree) -> bool:
    """Whether it is a teacher that sees the degradation prior."""
    return config["role"] == "teacher" and registry.of(config).privileged == "prior"


def _shapes(config: Tree) -> State:
    """The shapes of the training state."""

    def fresh(key: jax.Array) -> State:
        variables = registry.fresh_variables(config, key)
        if "contrast" not in config:
            return fresh_train_state(variables, _OPTIMIZER)
        size = config["contrast"]["queue_size"]
        return fresh_contrastive_state(variables, _OPTIMIZER, key, queue_size=size)

    return jax.eval_shape(fresh, jax.random.key(0))


def _run_shapes(about: Tree) -> tuple[Run, jax.ShapeDtypeStruct]:
    """The shapes of the run in a checkpoint.

    Raises UserError for an ablation, of which the reference has no counterpart.
    """
    config = about["config"]
    ablated = [n for n, x in config["network"].items() if x is False]
    if ablated or not config.get("prior", True):
        raise UserError(
            "the working directory holds an ablation (config.network, config.prior): "
            "the reference has no such network"
        )
    averaged = config.get("ema_decay", 0) > 0  # converted weights have no such field
    run = jax.eval_shape(
        lambda state: fresh_run(state, averaged=averaged), _shapes(config)
    )
    return run, jax.ShapeDtypeStruct(prior.BASIS_SHAPE, jnp.float32)


def _packed_run(file: Path) -> tuple[Run, np.ndarray, Tree]:
    """A packed network as the run that it was, but for what it was trained with.

    Raises UserError for what learnt by contrast, whose momentum branch and queue are
    not packed.
    """
    about, tree = packed.read(file)
    if "contrast" in about["config"]:
        raise UserError(
            f"{file} is a {registry.called(about['config'])} without momentum branch "
            "and queue: convert the working directory that it was packed from"
        )
    _run_shapes(about)  # an ablation has no counterpart
    basis = tree.pop("basis")
    tree = {"batch_stats": {}, **tree}  # KDSR has none
    state = TrainState(step=jnp.int32(about["step"]), opt_state={}, **tree)
    return fresh_run(state, averaged=False), basis, about


def _estimators(config: Tree) -> list[str]:
    """The reference's names of the estimators in a state dict."""
    own = [registry.of(config).roles[config["role"]]]
    return own + [MOMENTUM] * ("contrast" in config)


def _counters(config: Tree) -> list[str]:
    """Names of BatchNorm's counts of updates."""
    network = registry.make_network(config)
    branches = _estimators(config)
    return [n for branch in branches for n in torch_names.counters(network, branch)]


def _counts(config: Tree, step: int) -> dict[str, int]:
    """BatchNorm's counts after `step` steps of our training."""
    network = registry.make_network(config)
    visits = [1, 1]
    if "contrast" in config:
        crops = config["contrast"]["crops"]
        pairing = contrast.pairing(registry.of(config).contrasts, crops)
        visits = [len(pairing.visits), pairing.positives.shape[1]]
    return {
        name: step * times
        for branch, times in zip(_estimators(config), visits, strict=False)
        for name in torch_names.counters(network, branch)
    }


def _check(file: str | Path, tensors: Tensors, config: Tree) -> None:
    """Raises UserError where the tensors are not exactly the config's."""
    wanted = blank(config)
    shared = sorted(wanted.keys() & tensors.keys())
    misfits = [
        f"{name} {_form(tensors[name])} for {_form(wanted[name])}"
        for name in shared
        if _form(tensors[name]) != _form(wanted[name])
    ]
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in {
            # (BatchNorm's counts matter to nothing, and many programs leave them out.)
            "missing": sorted(wanted.keys() - tensors.keys() - set(_counters(config))),
            "unexpected": sorted(tensors.keys() - wanted.keys()),
            "misshapen": misfits,
        }.items()
        if names
    ]
    if not problems:
        problems = _wrong_values(tensors, config)
    if problems:
        raise UserError(
            f"{file} reads like a {_describe(config)}, but is none: "
            f"{'; '.join(problems)}. Nothing was written"
        )
    spoilt = [n for n in shared if not np.isfinite(tensors[n]).all()]
    if spoilt:
        logging.warning(
            "%s: numbers that are not finite in %d of the tensors (%s)",
            file,
            len(spoilt),
            _first(spoilt),
        )


def _wrong_values(tensors: Tensors, config: Tree) -> list[str]:
    """What is wrong with the tensors whose values are not free."""
    pixel_range = registry.of(config).network.IMAGE_RANGE
    wrong = [
        f"{name} is not the fixed {value.ravel().tolist()}"
        for name, value in torch_names.mean_shift(pixel_range).items()
        # Weights that went through float16 are good enough.
        if not np.allclose(tensors[name], value, rtol=0, atol=1e-3 * pixel_range)
    ]
    if QUEUE in tensors:
        pointer, size = int(tensors[QUEUE_POINTER][0]), tensors[QUEUE].shape[1]
        if not 0 <= pointer < size:
            wrong.append(f"{QUEUE_POINTER} is {pointer}, not in 0..{size - 1}")
    return wrong


def _form(tensor: np.ndarray) -> str:
    return f"{tensor.dtype} {tensor.shape}"


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN] + ["..."] * (len(names) > _SHOWN))


def _describe(config: Tree) -> str:
    sizes = {
        name: f"{size} {name.replace('_', ' ')}"
        for name, size in config["network"].items()
        if not isinstance(size, bool)
    }
    told = ", ".join(sizes.values())
    if "groups" in sizes:
        told = f"{sizes['groups']} of {sizes['blocks']}"
    return (
        f"{registry.called(config)} of setting {config['setting']}, "
        f"x{config['scale']}, {told}"
    )


def _warn_of_size(config: Tree) -> None:
    method = registry.of(config)
    sizes = {**config["network"], **config.get("contrast", {})}
    published = dict(method.published)
    if method.contrasts:
        published["queue_size"] = PUBLISHED["queue_size"]
    others = [
        f"{name} {sizes[name]} for {size}"
        for name, size in published.items()
        if sizes.get(name, size) != size
    ]
    if others:
        logging.warning(
            "the reference as published cannot load this, its sizes are fixed in the "
            "code: %s",
            ", ".join(others),
        )


def _sha256(file: str | Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
