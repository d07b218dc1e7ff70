from typing import Any

import optax
import pytest
from helpers import literal

from configs import kdsr_student, kdsr_teacher, student, teacher
from lightbsr_jax.training import schedules
from lightbsr_jax.training.config import TrainingConfig


@pytest.mark.parametrize("config", [teacher, student])
def test_rate_of_every_epoch_of_the_paper(config) -> None:
    schedule = config.get_config("setting1").schedule
    rate = schedules.learning_rate(**schedule)
    for epoch in [1, 2, 99, 100, 101, 102, 104, 105, 106, 107, 400, 699, 700]:
        first = (epoch - 1) * schedule.steps_per_epoch
        last = epoch * schedule.steps_per_epoch - 1
        expected = pytest.approx(literal.learning_rate(epoch), rel=1e-4)
        assert (float(rate(first)), float(rate(last))) == (expected, expected)


def test_presets_differ_in_the_setting_alone() -> None:
    first, second = teacher.get_config("setting1"), teacher.get_config("setting2")
    assert (first.setting, second.setting) == (1, 2)
    assert {**first.to_dict(), "setting": 2} == second.to_dict()


@pytest.mark.parametrize("config", [teacher, student])
def test_short_presets_train_the_papers_network(config) -> None:
    for setting in (1, 2):
        whole = config.get_config(f"setting{setting}").to_dict()
        short = config.get_config(f"setting{setting}-short").to_dict()
        differ = {group for group in whole if whole[group] != short[group]}
        assert differ <= {
            *("data", "schedule", "contrast", "ema_decay"),
            *("validation", "log", "checkpoint"),
        }


def test_kernel_width_follows_the_scale() -> None:
    config = teacher.get_config()
    assert config.degradation.width_max == 4.0
    config.scale = 2
    assert config.degradation.width_max == 2.0


def test_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match="no preset 'setting3': use one of setting1"):
        teacher.get_config("setting3")
    with pytest.raises(ValueError, match="no preset 'real-gam': .* real-gan, "):
        kdsr_student.get_config("real-gam")


@pytest.mark.parametrize(
    ("config", "preset"), [(kdsr_teacher, "real"), (kdsr_student, "real-gan")]
)
def test_constant_rates_are_constant_to_the_end(config, preset: str) -> None:
    schedule = TrainingConfig.from_flags(config.get_config(preset)).schedule
    rate = schedules.of(schedule)
    assert float(rate(schedule.total - 1)) == float(rate(0)) == pytest.approx(1e-4)


def with_plateau(**fields: Any) -> optax.Schedule:
    """A schedule of two steps per epoch, without stage 1, up to a rate of 1."""
    return schedules.learning_rate(
        steps_per_epoch=2,
        stage1_epochs=0,
        stage1_learning_rate=0.0,
        learning_rate=1.0,
        **fields,
    )


def test_a_plateau_without_a_warmup_begins_at_the_full_rate() -> None:
    rate = with_plateau(
        stage2_epochs=4, warmup_epochs=0, final_learning_rate=0.0, cooldown_epochs=2
    )
    assert [float(rate(step)) for step in range(0, 8, 2)] == [1, 1, 0.5, 0]


def test_a_plateau_and_a_cooldown() -> None:
    rate = with_plateau(
        stage2_epochs=10, warmup_epochs=2, final_learning_rate=0.2, cooldown_epochs=4
    )
    expected = [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    found = [float(rate(2 * epoch + 1)) for epoch in range(10)]
    assert found == pytest.approx(expected)
