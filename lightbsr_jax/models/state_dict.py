"""Converting state dicts of the published PyTorch programs to variables, and back.

The names and shapes of its tensors identify the method, role and sizes of a state dict.
Networks trained by contrast also have a momentum branch and a queue; DASR publishes
files without these two. BatchNorm's counts of updates, which the published programs
store but never read, are kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import settings
from lightbsr_jax.imaging.settings import SETTINGS
from lightbsr_jax.methods.registry import METHODS
from lightbsr_jax.methods.torch_layers import MOMENTUM
from lightbsr_jax.models import torch_files, torch_names
from lightbsr_jax.models.torch_names import QUEUE, QUEUE_POINTER
from lightbsr_jax.spec import CONTRASTED, Contrast, ModelSpec, RunSpec, Sees

Tree = dict[str, Any]
Tensors = Mapping[str, np.ndarray]

PUBLISHED_QUEUE = 8192  # keys in the queues of the published programs
_SHOWN = 3  # number of names of each kind that an error lists


class Momentum(NamedTuple):
    """The momentum branch and the queue of contrastive training."""

    variables: Tree  # {"params", "batch_stats"}; parameters of CONTRASTED
    queue: Any  # [Q, E] unit vectors
    pointer: Any  # row of the oldest key


class StateDict(NamedTuple):
    """The content of a state dict, in this program's layouts."""

    run: RunSpec  # with a contrast if there is a queue
    variables: Tree  # {"params", "batch_stats"}
    momentum: Momentum | None
    counts: Mapping[str, int]  # of BatchNorm's updates, by their torch names


def read(
    file: str | Path,
    setting: settings.Name | None = None,
    *,
    otherwise: settings.Name | None = None,
) -> StateDict:
    """Reads the state dict of a file; see `infer` for the setting.

    Raises UserError if it is not a complete network of a known method.
    """
    tensors = torch_files.read(file)
    return from_tensors(file, tensors, infer(file, tensors, setting, otherwise))


def infer(
    file: str | Path,
    tensors: Tensors,
    setting: settings.Name | None = None,
    otherwise: settings.Name | None = None,
) -> RunSpec:
    """Infers method, role, sizes and queue length from names and shapes of tensors.

    The setting is `setting`, or else `otherwise`. The inputs of a LightBSR teacher show
    which settings fit; if `otherwise` does not, it is the first that does. Raises
    UserError if the setting is unknown, or if `setting` does not fit.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        _, network, role = torch_names.infer(shapes)
    except ValueError as error:
        raise UserError(
            f"{file} is not a network of the published programs "
            f"({', '.join(m.title for m in METHODS.values())}): it has {error}, but "
            f"{_first(tensors)}"
        ) from None
    spec = ModelSpec.of_network(network, role, next(iter(SETTINGS)))
    chosen = otherwise if setting is None else setting
    fitting = list(SETTINGS.values())
    if spec.sees is Sees.PRIOR:
        channels = torch_names.prior_channels(shapes)
        fitting = [s for s in fitting if s.prior_channels == channels]
    names = [s.name for s in fitting]
    if chosen is None and len(names) > 1:
        known = [f"--setting={s.name} ({s.description})" for s in fitting]
        raise UserError(
            f"{file} is a {spec.kind}, whose weights do not store the degradation "
            f"setting they were trained for: give {' or '.join(known)}; folders of the "
            "published programs end in _iso and _aniso"
        )
    if spec.sees is Sees.PRIOR and names and chosen not in names:
        if setting is not None:
            raise UserError(
                f"{file} is a teacher of setting {' or '.join(map(str, names))}, not "
                f"{setting}: correct --setting"
            )
        chosen = names[0]
    if chosen is not None:
        spec = replace(spec, setting=chosen)
    contrast = None
    if spec.sees is Sees.PRIOR or (role == "network" and QUEUE in shapes):
        queue = shapes.get(QUEUE, ())
        contrast = Contrast(queue[1] if len(queue) == 2 else PUBLISHED_QUEUE)
    return RunSpec(spec, contrast)


def from_tensors(file: str | Path, tensors: Tensors, run: RunSpec) -> StateDict:
    """Converts the tensors of a run to this program's layouts.

    Raises UserError, which names `file` and all wrong tensors, if they do not match the
    run's network; warns of values that are not finite.
    """
    empty, network = _empty(run), run.model.make_network()
    _check(file, tensors, empty)
    variables, *others = [
        torch_names.from_torch(tensors, shapes, network, estimator)
        for shapes, estimator in _branches(empty)
    ]
    momentum = None
    if others:
        queue = np.ascontiguousarray(tensors[QUEUE].T)
        momentum = Momentum(_complete(others[0]), queue, int(tensors[QUEUE_POINTER][0]))
    # Some programs leave counts out, or round them with all other tensors.
    whole = {name: x for name, x in tensors.items() if _form(x) == "int64 ()"}
    counts = {name: int(whole.get(name, 0)) for name in counters(run)}
    return StateDict(run, _complete(variables), momentum, counts)


def to_tensors(state_dict: StateDict) -> dict[str, np.ndarray]:
    """All tensors of a state dict by their torch names."""
    network = state_dict.run.model.make_network()
    tensors = torch_names.mean_shift(network.IMAGE_RANGE)
    for variables, estimator in _branches(state_dict):
        tensors |= torch_names.to_torch(variables, network, estimator)
    if state_dict.momentum is not None:
        pointer = int(state_dict.momentum.pointer)
        tensors[QUEUE] = np.asarray(state_dict.momentum.queue).T
        tensors[QUEUE_POINTER] = np.array([pointer], np.int64)
    counts = state_dict.counts.items()
    return tensors | {name: np.array(count, np.int64) for name, count in counts}


def blank(run: RunSpec) -> dict[str, np.ndarray]:
    """All tensors of a run's state dict, filled with zeros."""
    return to_tensors(_empty(run))


def estimators(run: RunSpec) -> list[str]:
    """The torch names of the estimators in a run's state dict."""
    own = [run.model.entry.roles[run.model.role]]
    return [*own, MOMENTUM] if run.contrast else own


def counters(run: RunSpec) -> list[str]:
    """The torch names of BatchNorm's counts of updates."""
    network = run.model.make_network()
    names = (torch_names.counters(network, branch) for branch in estimators(run))
    return [name for branch in names for name in branch]


def _branches(state_dict: StateDict) -> list[tuple[Tree, str]]:
    """The variables in a state dict, and the torch name of their estimator."""
    variables = [state_dict.variables]
    if state_dict.momentum is not None:
        variables.append(state_dict.momentum.variables)
    return list(zip(variables, estimators(state_dict.run), strict=True))


def _empty(run: RunSpec) -> StateDict:
    """A state dict of zeros."""
    shapes = run.model.shapes()
    variables: Tree = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype),
        {"params": shapes["params"], "batch_stats": shapes["batch_stats"]},
    )
    momentum = None
    if run.contrast is not None:
        params = {name: variables["params"][name] for name in CONTRASTED}
        embedding = params["projector"]["output"]["kernel"].shape[-1]
        momentum = Momentum(
            {**variables, "params": params},
            np.zeros((run.contrast.queue_size, embedding), np.float32),
            0,
        )
    return StateDict(run, variables, momentum, dict.fromkeys(counters(run), 0))


def _complete(variables: Tree) -> Tree:
    return {"batch_stats": {}, **variables}  # KDSR has none


def _check(file: str | Path, tensors: Tensors, empty: StateDict) -> None:
    """Raises UserError if names, shapes or types differ from those of `empty`."""
    run, wanted = empty.run, to_tensors(empty)
    counts = set(counters(run))  # of BatchNorm's updates, which have no effect
    shared = sorted((wanted.keys() & tensors.keys()) - counts)
    misfits = [
        f"{name} {_form(tensors[name])}, expected {_form(wanted[name])}"
        for name in shared
        if _form(tensors[name]) != _form(wanted[name])
    ]
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in {
            "missing": sorted(wanted.keys() - tensors.keys() - counts),
            "unexpected": sorted(tensors.keys() - wanted.keys()),
            "misshapen": misfits,
        }.items()
        if names
    ]
    if not problems:
        problems = _wrong_values(tensors, run)
    if problems:
        raise UserError(
            f"{file} looks like a {run.model}, but does not match one: "
            f"{'; '.join(problems)}"
        )
    spoilt = [n for n in shared if not np.isfinite(tensors[n]).all()]
    if spoilt:
        logging.warning(
            "%s: values that are not finite in %d of the tensors (%s)",
            file,
            len(spoilt),
            _first(spoilt),
        )


def _wrong_values(tensors: Tensors, run: RunSpec) -> list[str]:
    """Descriptions of wrong values in the tensors whose values are fixed."""
    image_range = run.model.entry.network.IMAGE_RANGE
    wrong = [
        f"{name} is not the fixed {value.ravel().tolist()}"
        for name, value in torch_names.mean_shift(image_range).items()
        # The tolerance allows weights that were stored as float16.
        if not np.allclose(tensors[name], value, rtol=0, atol=1e-3 * image_range)
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
    return ", ".join([*names[:_SHOWN], "..."] if len(names) > _SHOWN else names)
