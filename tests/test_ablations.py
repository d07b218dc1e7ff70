"""The presets of Tables 1 and 2 and of Figure 4: what they train, and that they do."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import common, student, teacher
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.interop import convert
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.training import checks, loop, setup, updates
from lightbsr_jax.training.config import TrainingConfig


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
        with pytest.raises(ValueError, match="no preset 'm6': use one of setting1"):
            module.get_config("m6")


def test_contrast_without_prior() -> None:
    """T3's stage 1, by shapes: the estimator sees three channels."""
    config = small(teacher.get_config("t3"))
    network = LightBSR(config.scale, **config.network, axis_name=updates.AXIS)
    ready = setup.prepare(TrainingConfig.from_flags(config), network)
    kernel = ready.state.params["estimator"]["conv_0"]["kernel"]
    assert kernel.shape == (3, 3, 3, 32)
    batch = updates.Batch(
        jnp.zeros((1, 4, 4, 8, 8, 3)),
        jnp.zeros((1, 4, 15)),
        jnp.zeros((1, 4, 32, 32, 3), jnp.uint8),
    )
    update = jax.vmap(ready.updates[1], (None, 0, None), axis_name=updates.AXIS)
    _, metrics = jax.eval_shape(update, ready.state, batch, None)
    assert set(metrics) == {"contrastive", "gradient_norm"}


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
    with pytest.raises(UserError, match="stage1_epochs 1: without contrastive"):
        checks.check(TrainingConfig.from_flags(config))
