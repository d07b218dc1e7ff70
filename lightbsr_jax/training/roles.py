"""What differs between training a teacher and training a student."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from lightbsr_jax.checkpoint import checksum
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import prior
from lightbsr_jax.model import Model
from lightbsr_jax.networks.lightbsr import LightBSR
from lightbsr_jax.training.state import (
    StudentState,
    TeacherState,
    Tree,
    fresh_teacher,
    student_of_teacher,
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
    teacher: Tree  # the student's; {} for a teacher
    teacher_checksum: int | None  # of its weights; None for a teacher


def prepare(
    config: ConfigDict,
    network: LightBSR,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
) -> Role:
    """The role that the config asks for.

    Raises UserError for a student whose teacher is of another kind.
    """
    key = jax.random.key(config.seed)
    if config.role == "teacher":
        state = fresh_teacher(
            network,
            optimizer,
            key,
            prior_channels=prior.channels(config.setting) if config.prior else 0,
            queue_size=config.contrast.queue_size,
        )
        updates = {
            stage: teacher_update(
                network,
                optimizer,
                learning_rate,
                stage=stage,
                momentum=config.contrast.momentum,
                temperature=config.contrast.temperature,
                parts=config.compute.parts,
                shows_prior=config.prior,
            )
            for stage in (1, 2)
        }
        if not config.contrast.enabled:
            plain = plain_teacher_update(
                network,
                optimizer,
                learning_rate,
                parts=config.compute.parts,
                shows_prior=config.prior,
            )
            updates = {2: plain}
        return Role(state, updates, prior.make_basis(config.seed), {}, None)

    model = Model.load(config.distillation.teacher)
    check_teacher(config, model)
    state = student_of_teacher(network, optimizer, key, model.variables)
    updates = {
        stage: student_update(
            network,
            optimizer,
            learning_rate,
            stage=stage,
            temperature=config.distillation.temperature,
            l1_weight=config.distillation.l1_weight,
            parts=config.compute.parts,
            shows_prior=model.prior,
        )
        for stage in (1, 2)
    }
    basis = np.asarray(model.basis)
    return Role(state, updates, basis, model.variables, checksum(model.variables))


def check_teacher(config: ConfigDict, model: Model) -> None:
    """Raises UserError where a student's config does not fit its teacher."""
    wanted: dict[str, Any] = {
        "role": "teacher",
        "setting": config.setting,
        "scale": config.scale,
        **{f"network.{name}": value for name, value in config.network.items()},
    }
    found = {
        "role": model.role,
        "setting": model.setting,
        "scale": model.scale,
        **{f"network.{name}": getattr(model.network, name) for name in config.network},
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
