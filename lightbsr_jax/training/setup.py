"""Setting up a run: its initial state, and the updates that train it.

The updates depend on the config groups that exist: `distillation`, `contrast`, or
neither. The group `adversarial` adds a GAN loss to those without contrast.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.models import packed
from lightbsr_jax.models.checkpoint import checksum
from lightbsr_jax.models.load import Weights, model_of, read
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training import adversary, initial, optimizers, schedules
from lightbsr_jax.training.config import (
    Adversarial,
    Contrast,
    Distillation,
    TrainingConfig,
    planned_updates,
)
from lightbsr_jax.training.initial import Fitted
from lightbsr_jax.training.state import (
    State,
    TrainState,
    Tree,
    fresh_contrastive_state,
    fresh_train_state,
    inherit,
    with_discriminator,
)
from lightbsr_jax.training.steps import Constants
from lightbsr_jax.training.updates import (
    Learner,
    Update,
    contrastive_update,
    distillation_update,
    supervised_update,
)

STAGES = (1, 2)  # of runs with contrast or distillation
DISCRIMINATOR = 0x6A  # number of the discriminator's random key
# Copy of a student's teacher in the student's workdir, made when the run starts.
KEPT_TEACHER = f"teacher{packed.SUFFIX}"


class Teacher(NamedTuple):
    """A student's teacher, which does not change."""

    name: str
    variables: Tree  # {"params", "batch_stats"}
    checksum: int  # of these
    step: int  # number of training updates
    planned: int | None = None  # number of updates in its schedule, if known
    about: Tree | None = None  # metadata for a packed file, see `models.packed`
    basis: np.ndarray | None = None


class Setup(NamedTuple):
    """The initial state and the updates of a run."""

    state: State
    updates: dict[int, Update]  # by stage
    basis: np.ndarray  # of the prior
    teacher: Teacher | None = None  # a student's
    start: Fitted | None = None  # the initial variables of `state`
    vgg: Tree | None = None  # parameters of VGG19, for a perceptual loss

    def constants(self, seed: int) -> Constants:
        """The constants of steps; `seed` is the seed of the degradations."""
        teacher = None if self.teacher is None else self.teacher.variables
        return Constants(seed, self.basis, teacher, vgg=self.vgg)


def prepare(
    config: TrainingConfig,
    network: BlindNetwork,
    given: Tree | None = None,
    *,
    begun: Path | None = None,
) -> Setup:
    """Sets up the run of a config: distillation, contrast, or neither.

    It starts from the tensors of `given`, {"params", "batch_stats", "basis"}, that fit.
    A student that resumes in the workdir `begun` uses the copy of its teacher there if
    the teacher has changed or is missing. Raises UserError if a student does not fit
    its teacher, or if no tensor fits.
    """
    learner = make_learner(config, network)
    if config.distillation is not None:
        setup = _distilled(config, config.distillation, learner, given, begun)
    elif config.contrast is not None:
        setup = _contrasted(config, config.contrast, learner, given)
    else:
        setup = _supervised(config, learner, given)
    if config.adversarial is not None:
        return _against(config.adversarial, setup, learner, config.seed)
    return setup


def _supervised(config: TrainingConfig, learner: Learner, given: Tree | None) -> Setup:
    """Sets up training by the loss of the SR images alone."""
    fresh = initial.fresh_variables(config, jax.random.key(config.seed))
    start = initial.fit(fresh, given)
    return Setup(
        state=fresh_train_state(start.variables, learner.optimizer),
        updates=make_updates(config, learner),
        basis=_first_basis(config, start, given),
        start=start,
    )


def _against(
    adversarial: Adversarial, setup: Setup, learner: Learner, seed: int
) -> Setup:
    """Adds a fresh discriminator, and the weights of a perceptual loss, to a setup."""
    opponent, state, vgg = learner.adversary, setup.state, None
    if opponent is None or not isinstance(state, TrainState):
        raise ValueError("a GAN loss does not go with contrast")
    # Apart from the network's keys, so that the network is the one without a GAN loss.
    key = jax.random.fold_in(jax.random.key(seed), DISCRIMINATOR)
    if adversarial.perceptual:
        vgg = adversary.load_vgg(adversarial.perceptual)
    state = with_discriminator(state, opponent.network, opponent.optimizer, key)
    return setup._replace(state=state, vgg=vgg)


def make_learner(config: TrainingConfig, network: BlindNetwork) -> Learner:
    """Makes the learner of a config; a student's `sees_prior` is its teacher's."""
    return Learner(
        config.model.entry,
        network,
        optimizers.make(config.optimizer, **dataclasses.asdict(config.adam)),
        schedules.of(config.schedule),
        microbatches=config.compute.parts,
        sees_prior=config.model.is_teacher and config.model.prior,
        gradient_clip=config.gradient_clip,
        adversary=adversary.make(config),
        pixel_loss=config.pixel_loss,
    )


def make_updates(config: TrainingConfig, learner: Learner) -> dict[int, Update]:
    """The updates that train it, by stage; with a GAN loss there is no stage 1."""
    if config.distillation is not None:
        update = partial(
            distillation_update,
            learner,
            temperature=config.distillation.temperature,
            l1_weight=config.distillation.l1_weight,
        )
    elif config.contrast is not None and config.contrast.enabled:
        update = partial(
            contrastive_update,
            learner,
            momentum=config.contrast.momentum,
            temperature=config.contrast.temperature,
        )
    else:
        return {2: supervised_update(learner)}
    stages = STAGES if config.adversarial is None else STAGES[1:]
    return {stage: update(stage=stage) for stage in stages}


def _distilled(
    config: TrainingConfig,
    distillation: Distillation,
    learner: Learner,
    given: Tree | None,
    begun: Path | None,
) -> Setup:
    """Sets up a student, which starts with modules of its teacher."""
    weights = _teacher(config, distillation.teacher, begun)
    model = model_of(weights, distillation.teacher)
    check_teacher(config.model, model, distillation.teacher)
    fresh = initial.fresh_variables(config, jax.random.key(config.seed))
    start = initial.fit(
        inherit(fresh, model.variables, learner.method.inherited), given
    )
    learner = learner._replace(sees_prior=model.prior)
    return Setup(
        state=fresh_train_state(start.variables, learner.optimizer),
        updates=make_updates(config, learner),
        basis=np.asarray(model.basis),
        teacher=Teacher(
            name=distillation.teacher,
            variables=model.variables,
            checksum=checksum(model.variables),
            step=model.step,
            planned=planned_updates((weights.about or {}).get("config", {})),
            about={
                "config": model.spec.as_config(),
                "step": int(model.step),
                "source": distillation.teacher,
            },
            basis=np.asarray(model.basis),
        ),
        start=start,
    )


def _teacher(config: TrainingConfig, name: str, begun: Path | None) -> Weights:
    """Reads the teacher of that name, or the copy of it in the workdir `begun`.

    Raises UserError or FileNotFoundError if neither can be read.
    """
    kept = None if begun is None else begun / KEPT_TEACHER
    try:
        named = read(name, setting=config.model.setting)
    except (UserError, FileNotFoundError) as error:
        if kept is None or not kept.exists():
            raise
        logging.warning("%s: using the copy of the teacher, %s", error, kept)
        return read(kept)
    if kept is None or not kept.exists():
        return named
    try:
        was = read(kept)
    except UserError as error:
        logging.warning("%s: using the teacher itself, %s", error, name)
        return named
    same = checksum(was.variables) == checksum(named.variables)
    if same or (was.about or {}).get("source") != name:
        return named
    logging.warning(
        "the teacher %s has changed (it is at step %d): using its copy of step %d, %s",
        *(name, named.step, was.step, kept),
    )
    return was


def keep_teacher(teacher: Teacher, workdir: Path, *, begins: bool = True) -> None:
    """Writes a run's teacher to its workdir.

    Unless the run `begins`, a copy that is there stays. One that an earlier start left
    behind, before its first checkpoint, may be of another teacher, with which the run
    could not be resumed.
    """
    file, about = workdir / KEPT_TEACHER, teacher.about or {}
    if begins or not file.exists():
        model = {**jax.device_get(teacher.variables), "basis": teacher.basis}
        atomic.replace(file, lambda new: packed.write(new, about, model, half=False))


def _contrasted(
    config: TrainingConfig, contrast: Contrast, learner: Learner, given: Tree | None
) -> Setup:
    """Sets up contrastive training; ablations keep its state but do not use it."""
    network_key, queue_key = jax.random.split(jax.random.key(config.seed))
    start = initial.fit(initial.fresh_variables(config, network_key), given)
    state = fresh_contrastive_state(
        start.variables,
        learner.optimizer,
        queue_key,
        queue_size=contrast.queue_size,
    )
    return Setup(
        state=state,
        updates=make_updates(config, learner),
        basis=_first_basis(config, start, given),
        start=start,
    )


def _first_basis(
    config: TrainingConfig, start: Fitted, given: Tree | None
) -> np.ndarray:
    """The prior's basis of a run without a teacher.

    If the estimator of the `given` weights was taken, it is theirs, which that
    estimator requires.
    """
    basis = np.asarray((given or {}).get("basis", 0))
    if basis.any() and initial.ESTIMATOR_INPUT in start.taken:
        return basis
    return config.model.degradations.make_basis(config.seed)


def check_teacher(student: ModelSpec, teacher: Model, name: str) -> None:
    """Raises UserError if a student does not fit its teacher, called `name`."""
    wanted = {**_facts(student), "role": "teacher"}
    found = _facts(teacher.spec)
    wrong = [
        f"{field} is {found.get(field)}, not {value}"
        for field, value in wanted.items()
        if found.get(field) != value
    ]
    if wrong:
        raise UserError(
            f"distillation.teacher {name}: {'; '.join(wrong)}. "
            "Name a teacher of the same kind, or set the student's config to these "
            "values"
        )


def _facts(spec: ModelSpec) -> dict[str, Any]:
    """The properties that student and teacher share, by names of config fields."""
    return {
        "method": spec.entry.title,
        "role": spec.role,
        "setting": spec.setting,
        "scale": spec.scale,
        **{f"network.{name}": value for name, value in spec.network.items()},
    }
