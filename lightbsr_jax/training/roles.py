"""A run before its first step: its state, and the updates that train it.

By what its config has: `contrast`, `distillation` of a teacher, or neither.
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
from lightbsr_jax.training.state import (
    StudentState,
    TeacherState,
    Tree,
    fresh_student,
    fresh_teacher,
    inherit,
)
from lightbsr_jax.training.steps import (
    Update,
    plain_teacher_update,
    student_update,
    teacher_update,
)


class Role(NamedTuple):
    """A run before its first step."""

    state: TeacherState | StudentState
    updates: dict[int, Update]  # by stage
    basis: np.ndarray  # of the prior
    teacher: Tree  # the student's; {} for others
    teacher_checksum: int | None  # of its weights; None for others
    teacher_step: int = 0  # updates that it was trained for


def prepare(
    config: ConfigDict,
    network: BlindNetwork,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
) -> Role:
    """The role that the config asks for.

    Raises UserError for a student whose teacher is of another kind.
    """
    key = jax.random.key(config.seed)
    parts = config.compute.parts
    if "distillation" in config:
        model = Model.load(config.distillation.teacher)
        check_teacher(config, model)
        variables = inherit(
            registry.fresh_variables(config, key),
            model.variables,
            registry.of(config).inherited,
        )
        update = partial(
            student_update,
            network,
            optimizer,
            learning_rate,
            temperature=config.distillation.temperature,
            l1_weight=config.distillation.l1_weight,
            parts=parts,
            shows_prior=model.prior,
        )
        return Role(
            fresh_student(variables, optimizer),
            {stage: update(stage=stage) for stage in (1, 2)},
            np.asarray(model.basis),
            model.variables,
            checksum(model.variables),
            model.step,
        )

    basis, shows_prior = prior.make_basis(config.seed), config.get("prior", True)
    plain = plain_teacher_update(
        network, optimizer, learning_rate, parts=parts, shows_prior=shows_prior
    )
    if "contrast" not in config:
        state = fresh_student(registry.fresh_variables(config, key), optimizer)
        return Role(state, {2: plain}, basis, {}, None)
    network_key, queue_key = jax.random.split(key)
    state = fresh_teacher(
        registry.fresh_variables(config, network_key),
        optimizer,
        queue_key,
        queue_size=config.contrast.queue_size,
    )
    updates = {2: plain}
    if config.contrast.get("enabled", True):
        update = partial(
            teacher_update,
            network,
            optimizer,
            learning_rate,
            momentum=config.contrast.momentum,
            temperature=config.contrast.temperature,
            parts=parts,
            shows_prior=shows_prior,
        )
        updates = {stage: update(stage=stage) for stage in (1, 2)}
    return Role(state, updates, basis, {}, None)


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
