"""The message for a user whose steps do not fit into a device's memory."""

from typing import Any

import jax
import pytest

from configs import teacher
from lightbsr_jax.errors import UserError
from lightbsr_jax.training.config import TrainingConfig
from lightbsr_jax.training.loop import within_memory


def config_of(**compute: Any) -> TrainingConfig:
    config = teacher.get_config("setting1").unlock()
    config.data.batch_size = 6 * jax.device_count()
    config.compute.update(compute)
    return TrainingConfig.from_flags(config)


def failing(message: str) -> Any:
    def step(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError(message)

    return step


OUT = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 15.78G of 15.75G"


@pytest.mark.parametrize(
    ("compute", "remedy"),
    [
        ({}, r"parts=1: .* Take --config.compute.parts=2 .*, or --config.*=bfloat16"),
        ({"parts": 3, "dtype": "bfloat16"}, r"Take --config.compute.parts=6 .*, or a "),
        ({"parts": 6, "dtype": "bfloat16"}, r"Take a config.data.batch_size below \d"),
    ],
)
def test_the_field_to_change_is_named(compute: dict[str, Any], remedy: str) -> None:
    step = within_memory(config_of(**compute))(failing(OUT))
    with pytest.raises(UserError, match=remedy) as raised:
        step(1, 2, 3)
    assert "of 6 images on each of" in str(raised.value)
    assert isinstance(raised.value.__cause__, jax.errors.JaxRuntimeError)


def test_other_errors_are_left_alone() -> None:
    step = within_memory(config_of())(failing("INTERNAL: a fault"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault"):
        step(1, 2, 3)


def test_what_fits_is_called_and_lowered() -> None:
    def step(x: int, y: int) -> int:
        return x + y

    step.lower = str  # type: ignore[attr-defined]
    guarded: Any = within_memory(config_of())(step)
    assert guarded(1, 2) == 3 and guarded.lower is str
