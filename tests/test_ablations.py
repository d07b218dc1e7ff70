"""The presets of Tables 1 and 2 and of Figure 4: what they train, and that they do."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import common, student, teacher
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.interop import convert
from lightbsr_jax.model import Model
from lightbsr_jax.networks.lightbsr import LightBSR, initialise
from lightbsr_jax.training import loop, roles, steps


def small(config: ConfigDict) -> ConfigDict:
    config.network.groups = config.network.blocks = 1
    config.data.batch_size = 4
    config.data.lr_crop = 8
    config.schedule.update(steps_per_epoch=1, stage2_epochs=2, warmup_epochs=1)
    config.contrast.queue_size = 16
    return config


def test_presets() -> None:
    published = teacher.get_config("setting1").to_dict()
    for preset in ("t4", "m4", "d4"):
        assert teacher.get_config(preset).to_dict() == published
    for crops in range(2, 9):
        assert teacher.get_config(f"d{crops}").contrast.crops == crops
    for preset in ("t1", "t2"):
        config = teacher.get_config(preset)
        assert not config.contrast.enabled and config.schedule.stage1_epochs == 0
    shown = [teacher.get_config(f"t{table}").prior for table in (1, 2, 3, 4)]
    assert shown == [False, True, False, True]
    for preset in common.NETWORKS:
        networks = [module.get_config(preset).network for module in (teacher, student)]
        assert networks[0].to_dict() == networks[1].to_dict()
    for module in (teacher, student):
        with pytest.raises(ValueError, match="no preset 'm6': take one of setting1"):
            module.get_config("m6")


@pytest.mark.parametrize(("preset", "stage"), [("t2", 2), ("t3", 1), ("m1", 2)])
def test_steps_keep_the_state(preset: str, stage: int) -> None:
    """A step makes a state of the same shapes, and tells its losses. (By shapes.)"""
    config = small(teacher.get_config(preset))
    config.data.hr = "somewhere"
    loop.check(config)
    network = LightBSR(config.scale, **config.network, axis_name=steps.AXIS)
    rate = optax.constant_schedule(1e-3)
    role = roles.prepare(config, network, optax.scale_by_adam(), rate)
    batch = steps.Batch(
        jnp.zeros((4, config.contrast.crops, 8, 8, 3)),
        jnp.zeros((4, 15)),
        jnp.zeros((4, 32, 32, 3), jnp.uint8),
    )
    assert sorted(role.updates) == ([1, 2] if config.contrast.enabled else [2])
    kernel = role.state.params["estimator"]["conv_0"]["kernel"]
    assert kernel.shape[2] == (18 if config.prior else 3)
    update = role.updates[stage]
    mapped = jax.vmap(update, (None, 0, None), (None, None), axis_name=steps.AXIS)
    alone = jax.tree.map(lambda x: x[None], batch)
    state, metrics = jax.eval_shape(mapped, role.state, alone, {})
    for before, after in zip(*map(jax.tree.leaves, (role.state, state)), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    expected = {"gradient_norm"}
    expected |= {"reconstruction"} if stage == 2 else set()
    expected |= {"contrastive"} if config.contrast.enabled else set()
    assert set(metrics) == expected


@pytest.mark.parametrize(
    ("preset", "sees_channel", "sees_spatial"),
    [
        ("m1", False, False),
        ("m2", False, True),
        ("m3", True, False),
    ],
)
def test_what_the_blocks_see(
    preset: str, sees_channel: bool, sees_spatial: bool
) -> None:
    network = LightBSR(2, 1, 1, **common.NETWORKS[preset])
    variables = initialise(network, jax.random.key(0))
    layer_scale = variables["params"]["restorer"]["body"]["groups"]["blocks"]["mixing"]
    layer_scale["layer_scale"] = jnp.ones_like(layer_scale["layer_scale"])
    lr = jnp.full((1, 5, 6, 3), 0.5)

    @jax.jit
    def upscale(channel: float, spatial: float) -> jax.Array:
        idr = (jnp.full((1, 48), channel), jnp.full((1, 5, 6, 8), spatial))
        return network.apply(variables, lr, *idr, method="upscale")

    sr = upscale(0.0, 0.0)
    assert (sr != upscale(9.0, 0.0)).any() == sees_channel
    assert (sr != upscale(0.0, 9.0)).any() == sees_spatial


def test_teacher_without_prior_and_contrast(tmp_path: Path) -> None:
    """T1, from photographs to a network that needs no degradation."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((48, 48)).save(tmp_path / f"{name}.png")
    config = small(teacher.get_config("t1"))
    config.data.hr = str(tmp_path)
    loop.train(config, tmp_path / "run")
    model = Model.load(tmp_path / "run")
    assert (model.role, model.prior, model.step) == ("teacher", False, 2)
    lr = jnp.full((1, 5, 6, 3), 0.5)
    sr = model.restore(lr)
    assert sr.shape == (1, 20, 24, 3) and model.encode(lr).shape == (1, 2, 2, 128)
    known = Degradation(jnp.ones((1, 21, 21)) / 441, jnp.ones(1))
    np.testing.assert_array_equal(model.restore(lr, known), sr)
    with pytest.raises(UserError, match="an ablation .* the reference has no"):
        convert.to_file(tmp_path / "run", tmp_path / "out.safetensors")

    config.schedule.stage1_epochs = 1
    with pytest.raises(UserError, match="stage1_epochs 1: stage 1 is contrastive"):
        loop.check(config)
