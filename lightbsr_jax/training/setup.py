"""A run before its first step: its state, and the updates that train it.

Which ones depends on the groups of its config: `distillation`, `contrast`, or neither.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import prior
from lightbsr_jax.methods import registry
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.models.checkpoint import checksum
from lightbsr_jax.models.model import Model
from lightbsr_jax.training import schedules
from lightbsr_jax.training.state import (
    State,
    Tree,
    fresh_contrastive_state,
    fresh_train_state,
    inherit,
)
from lightbsr_jax.training.steps import Constants
from lightbsr_jax.training.updates import (
    Learner,
    Update,
    contrastive_update,
    distillation_update,
    supervised_update,
)

STAGES = (1, 2)  # of what has a first one


class Teacher(NamedTuple):
    """A student's teacher, which does not change."""

    variables: Tree  # {"params", "batch_stats"}
    checksum: int  # of these
    step: int  # updates that it was trained for


class Setup(NamedTuple):
    """A run before its first step."""

    state: State
    updates: dict[int, Update]  # by stage
    basis: np.ndarray  # of the prior
    teacher: Teacher | None = None  # a student's

    def constants(self, seed: int) -> Constants:
        """The setup's part of a step's; `seed` is of the degradations."""
        teacher = None if self.teacher is None else self.teacher.variables
        return Constants(seed, self.basis, teacher)


def prepare(config: ConfigDict, network: BlindNetwork) -> Setup:
    """What the config asks for: distillation, contrast, or neither.

    Raises UserError for a student whose teacher is of another kind.
    """
    learner = Learner(
        registry.of(config),
        network,
        optax.scale_by_adam(**config.adam),
        schedules.of(config.schedule),
        microbatches=config.compute.parts,
        sees_prior=config.get("prior", True),
    )
    if "distillation" in config:
        return _distilled(config, learner)
    if "contrast" in config:
        return _contrasted(config, learner)
    variables = registry.fresh_variables(config, jax.random.key(config.seed))
    return Setup(
        state=fresh_train_state(variables, learner.optimizer),
        updates={2: supervised_update(learner)},
        basis=prior.make_basis(config.seed),
    )


def _distilled(config: ConfigDict, learner: Learner) -> Setup:
    """A student that starts with its teacher's modules."""
    model = Model.load(config.distillation.teacher)
    check_teacher(config, model)
    variables = inherit(
        registry.fresh_variables(config, jax.random.key(config.seed)),
        model.variables,
        learner.method.inherited,
    )
    update = partial(
        distillation_update,
        learner._replace(sees_prior=model.prior),
        temperature=config.distillation.temperature,
        l1_weight=config.distillation.l1_weight,
    )
    return Setup(
        state=fresh_train_state(variables, learner.optimizer),
        updates={stage: update(stage=stage) for stage in STAGES},
        basis=np.asarray(model.basis),
        teacher=Teacher(model.variables, checksum(model.variables), model.step),
    )


def _contrasted(config: ConfigDict, learner: Learner) -> Setup:
    """What has a momentum branch and a queue, even where an ablation uses neither."""
    network_key, queue_key = jax.random.split(jax.random.key(config.seed))
    state = fresh_contrastive_state(
        registry.fresh_variables(config, network_key),
        learner.optimizer,
        queue_key,
        queue_size=config.contrast.queue_size,
    )
    updates = {2: supervised_update(learner)}
    if config.contrast.get("enabled", True):
        update = partial(
            contrastive_update,
            learner,
            momentum=config.contrast.momentum,
            temperature=config.contrast.temperature,
        )
        updates = {stage: update(stage=stage) for stage in STAGES}
    return Setup(state, updates, basis=prior.make_basis(config.seed))


def check_teacher(config: ConfigDict, model: Model) -> None:
    """Raises UserError where a student's config does not fit its teacher."""
    wanted: dict[str, Any] = {
        "method": registry.of(config).title,
        "role": "teacher",
        "setting": config.setting,
        "scale": config.scale,
        **_sizes(config.network),
    }
    found = {
        "method": model.method.title,
        "role": model.role,
        "setting": model.setting,
        "scale": model.scale,
        **_sizes({name: getattr(model.network, name, None) for name in config.network}),
    }
    wrong = [
        f"{field} is {found[field]}, not {wanted[field]}"
        for field in wanted
        if found[field] != wanted[field]
    ]
    if wrong:
        raise UserError(
            f"distillation.teacher {config.distillation.teacher}: {'; '.join(wrong)}. "
            "Name a teacher of the same kind, or give the student the teacher's values"
        )


def _sizes(network: Mapping[str, Any]) -> dict[str, Any]:
    return {f"network.{name}": value for name, value in network.items()}
