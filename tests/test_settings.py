"""The settings: a third one is an entry."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import cases
from lightbsr_jax.imaging import degradation, prior, settings
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.settings import SETTINGS, Known, Setting
from lightbsr_jax.inference import explain
from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training import steps, updates


def noise_vector(drawn: Degradation, basis: Array | np.ndarray) -> Array:
    """A prior of the noise alone."""
    return jnp.asarray(drawn.noise_level)[:, None]


def every_other(keys: Array, hr: Array, drawn: Degradation, *, scale: int) -> Array:
    """Pixels apart, instead of blur and noise."""
    return hr[..., ::scale, ::scale, :] / 255


NOISY = Setting(
    name="noisy",
    description="strong noise",
    sample=partial(degradation.sample, family="isotropic", noise_max=50.0),
    prior_vector=noise_vector,
    prior_channels=1,
    tested={"sigmas": (1.0, 3.0)},
    cases=settings.isotropic_cases,
    known=(Known(1, 1, 0, 40),),
    apply=every_other,
)


@pytest.fixture
def third_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "noisy", NOISY)


def test_entries_are_under_their_names() -> None:
    assert {name: s.name for name, s in SETTINGS.items()} == {
        name: name for name in (1, 2, "jpeg", "real", "photo")
    }
    listed = settings.listed()
    assert listed.startswith("1 (isotropic blur), 2 (anisotropic blur and noise), ")


@pytest.mark.parametrize("name", SETTINGS)
def test_priors_have_their_length(name: settings.Name) -> None:
    setting = SETTINGS[name]
    drawn = setting.sample(jax.random.split(jax.random.key(0), 3), width_max=4.0)
    vector = setting.prior_vector(drawn, np.zeros(prior.BASIS_SHAPE))
    assert vector.shape == (3, setting.prior_channels)


@pytest.mark.usefixtures("third_setting")
def test_a_third_one_is_an_entry() -> None:
    assert settings.parse("noisy") == "noisy" and settings.parse("2") == 2
    labels = [case.label for case in cases.make("noisy")]
    assert labels == ["sigma 1", "sigma 3"]
    assert [one.label for one in explain.known_degradations("noisy")] == [
        "sigma 1.0, noise 40"
    ]
    spec = ModelSpec("lightbsr", "teacher", "noisy", 4)
    assert spec.shapes()["params"]["estimator"]["conv_0"]["kernel"].shape[2] == 3 + 1


@pytest.mark.usefixtures("third_setting")
def test_training_degrades_by_a_third_one() -> None:
    """The step hands its update what the setting draws and says."""

    def update(state: dict, batch: updates.Batch, teacher: Any) -> tuple:
        return state, {"prior": batch.prior, "lr": batch.lr}

    step = steps.degrading_step(update, setting="noisy", scale=2, width_max=2.0)
    crops = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16, 3), np.uint8)
    constants = steps.Constants(jnp.uint32(0), jnp.zeros(prior.BASIS_SHAPE), None)

    class State:
        step = jnp.int32(0)

    def on_device(crops: Array) -> dict:
        return step(State(), crops, constants)[1]

    seen = jax.vmap(on_device, axis_name=steps.AXIS)(jnp.asarray(crops)[None])
    levels = np.asarray(seen["prior"][0, :, 0])
    assert seen["prior"].shape == (1, 2, 1)
    assert (0 < levels).all() and (levels < 50).all() and levels[0] != levels[1]
    np.testing.assert_allclose(seen["lr"][0], crops[:, :, ::2, ::2] / 255, rtol=1e-6)


def test_names_that_no_setting_has() -> None:
    for find in (settings.of, settings.parse):
        with pytest.raises(
            UserError, match="setting 4 does not exist: use one of 1 .isotropic"
        ):
            find("4")
