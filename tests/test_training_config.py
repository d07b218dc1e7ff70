"""Configs of runs, typed: every preset, and fields that are missing or unknown."""

import sys
from dataclasses import asdict
from types import ModuleType
from typing import Any

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import dasr, kdsr_student, kdsr_teacher, student, teacher
from lightbsr_jax.errors import UserError
from lightbsr_jax.parity import case as cases
from lightbsr_jax.training.config import (
    Contrast,
    CosineSchedule,
    SteppedSchedule,
    TrainingConfig,
)

PRESETS = [
    *((module, "setting2") for module in (teacher, student)),
    *((teacher, preset) for preset in ("t1", "m3", "demo", "setting1-short")),
    *((student, preset) for preset in ("setting1-short", "photo-plain")),
    *((module, "demo") for module in (kdsr_teacher, kdsr_student, dasr)),
]


@pytest.mark.parametrize(("module", "preset"), PRESETS)
def test_presets_are_read_whole(module: ModuleType, preset: str) -> None:
    """Every field has its place, and its value there."""
    config = module.get_config(preset)
    read = TrainingConfig.from_flags(config)
    given = config.to_dict()

    def compare(values: dict[str, Any], typed: Any) -> None:
        for name, value in values.items():
            found = getattr(typed, name)
            if isinstance(value, dict):
                compare(value, found)
            else:
                assert found == value, name

    of_model = ("role", "setting", "scale", "method", "prior")
    for name in of_model:
        if name in given:
            assert getattr(read.model, name) == given.pop(name)
    network = given.pop("network")
    assert {name: read.model.network[name] for name in network} == network
    compare(given, read)
    assert read.as_given == config.to_dict()


def test_what_configs_may_leave_out() -> None:
    read = TrainingConfig.from_flags(student.get_config())
    assert read.contrast is None and not read.contrasts and read.crops == 1
    assert read.model.method == "lightbsr" and read.model.prior
    read = TrainingConfig.from_flags(dasr.get_config())
    assert read.contrast == Contrast(
        momentum=0.999, temperature=0.07, crops=2, queue_size=8192, enabled=True
    )
    assert isinstance(read.schedule, SteppedSchedule)


def test_steps_of_a_schedule() -> None:
    read = TrainingConfig.from_flags(teacher.get_config("demo"))
    assert isinstance(read.schedule, CosineSchedule)
    assert (read.schedule.boundary, read.schedule.total) == (100, 500)
    longer = read.with_value("schedule", "steps_per_epoch", 7)
    assert (longer.schedule.boundary, longer.schedule.total) == (14, 70)
    assert longer.as_given["schedule"]["steps_per_epoch"] == 7
    assert read.as_given["schedule"]["steps_per_epoch"] == 50


def test_fields_that_are_missing_or_unknown() -> None:
    config = teacher.get_config().unlock()
    config.contrast.heat = 3
    with pytest.raises(UserError, match="config.contrast.heat is unknown to"):
        TrainingConfig.from_flags(config)
    del config.contrast.heat, config.contrast.momentum
    with pytest.raises(UserError, match="config.contrast.momentum is missing"):
        TrainingConfig.from_flags(config)
    config = teacher.get_config().unlock()
    del config.schedule
    with pytest.raises(UserError, match="config.schedule.* is missing"):
        TrainingConfig.from_flags(config)
    config = teacher.get_config().unlock()
    config.unheard_of = 1
    with pytest.raises(UserError, match="config.unheard_of is unknown"):
        TrainingConfig.from_flags(config)


@pytest.mark.parametrize("preset", ["setting1-plain", "photo-plain"])
@pytest.mark.parametrize(("text", "name"), [("2", 2), ("jpeg", "jpeg")])
def test_a_flag_sets_a_setting_of_any_kind(
    preset: str, text: str, name: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["train", f"--config.setting={text}"])
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_dict(
        "config", student.get_config(preset), flag_values=values
    )
    values(sys.argv)
    assert TrainingConfig.from_flags(config.value).model.setting == name


def test_settings_may_be_given_as_text() -> None:
    """As a flag gives them where a config of the user's has a name."""
    config = student.get_config("photo-plain")
    config.setting = "2"
    read = TrainingConfig.from_flags(config)
    assert read.model.setting == read.as_given["setting"] == 2
    config.setting = "two"
    with pytest.raises(UserError, match="config.setting: setting two does not exist"):
        TrainingConfig.from_flags(config)


@pytest.mark.parametrize(
    ("module", "preset", "stages"),
    [
        (teacher, "setting1", (1, 2)),
        (student, "setting2", (1, 2)),
        (kdsr_teacher, "setting1", (2,)),
        (kdsr_student, "setting2", (1, 2)),
        (dasr, "setting1", (1, 2)),
    ],
)
def test_what_is_compared_is_what_is_trained(
    module: ModuleType, preset: str, stages: tuple[int, ...]
) -> None:
    """A comparison's case and a preset have the same numbers."""
    read = TrainingConfig.from_flags(module.get_config(preset))
    sizes = {"groups": 1} if "groups" in read.model.network else {}
    if read.model.method == "kdsr":
        sizes = {"features": 8, "residual_blocks": 1}
    case = cases.make(
        scale=2,
        setting=1,
        method=read.model.method,
        network={**sizes, "blocks": 1},
        queue_size=8,
        size=(8, 8),
    )
    recipe = case.recipe
    assert asdict(recipe.adam) == asdict(read.adam)
    rates = read.schedule.stage1_learning_rate, read.schedule.learning_rate
    for stage in stages:
        assert recipe.learning_rates[stage - 1] == rates[stage - 1]
    for own, trained in (
        (recipe.contrast, read.contrast),
        (recipe.distillation, read.distillation),
    ):
        if trained is not None:
            assert own is not None
            assert asdict(own).items() <= asdict(trained).items()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data", 3, "config.data 3 is not a group of fields"),
        ("schedule", None, "config.schedule None is not a group of fields"),
        ("validation", None, "config.validation None is not a group of fields"),
        ("contrast", "a", "config.contrast 'a' is not a group of fields"),
        ("data.batch_size", "a", "config.data.batch_size 'a' is not a whole number"),
        ("data.batch_size", 2.5, "config.data.batch_size 2.5 is not a whole number"),
        ("data.hr", 3, "config.data.hr 3 is not a text"),
        ("schedule.stage2_epochs", None, "stage2_epochs None is not a whole number"),
        ("schedule.cooldown_epochs", "a", "cooldown_epochs 'a' is not a whole number"),
        ("adam.eps", "a", "config.adam.eps 'a' is not a number"),
        ("minutes", True, "config.minutes True is not a number"),
        ("contrast.enabled", 1, "config.contrast.enabled 1 is neither true nor false"),
    ],
)
def test_values_of_a_wrong_type_are_named(field, value, message) -> None:
    """As in a config file of one's own; flags have the types of its values."""
    values = teacher.get_config("setting1").to_dict()
    *groups, name = field.split(".")
    group = values
    for part in groups:
        group = group[part]
    group[name] = value
    with pytest.raises(UserError, match=message):
        TrainingConfig.from_flags(ConfigDict(values))
