"""Pictures and SR images of a validation; what is measured is in test_loop."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.pictures import picture, save
from PIL import Image

from configs import student
from lightbsr_jax.evaluation.benchmark import Restored, Score
from lightbsr_jax.training import validation
from lightbsr_jax.training.config import TrainingConfig
from lightbsr_jax.training.log import Log


def evaluated(
    restorers: dict[str, Any],
    images: list[tuple[str, np.ndarray]],
    cases: list[Any],
    *,
    on_restored: Callable[[Restored], None] | None,
    **_: Any,
) -> list[Score]:
    """For `benchmark.evaluate`: what each method restores is as dark as its number."""
    scores = []
    for position, (name, hr) in enumerate(images):
        for case in cases:
            of_image = [
                Score(method, "images", name, case.label, 20.0 + number, 0.5)
                for number, method in enumerate(restorers)
            ]
            scores += of_image
            sr = {name: hr // (2 + n) for n, name in enumerate(restorers)}
            restored = Restored(
                "images",
                name,
                case.label,
                position,
                hr[::4, ::4],
                hr,
                sr,
                {score.method: score for score in of_image},
            )
            if on_restored is not None:
                on_restored(restored)
    return scores


def test_its_kernels_are_those_of_its_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At scale 2 a network is trained on widths up to 2, not up to 4."""
    seen: list[Any] = []
    monkeypatch.setattr(
        validation.benchmark,
        "evaluate",
        lambda _, __, tested, **___: seen.extend(tested),
    )
    save(tmp_path / "hr" / "a.png", picture(0))
    config = student.get_config("setting1-plain")
    config.scale = 2
    config.validation.hr = str(tmp_path / "hr")
    validation.validation(TrainingConfig.from_flags(config))
    assert [case.label for case in seen] == ["sigma 0.6", "sigma 1.2", "sigma 1.8"]


@pytest.mark.parametrize("wanted", [False, True])
def test_sr_images_are_saved(
    wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation.benchmark, "evaluate", evaluated)
    for seed in range(3):
        save(tmp_path / "hr" / f"{seed}.png", picture(seed))
    config = student.get_config("setting1")
    config.data.hr = str(tmp_path / "hr")
    config.distillation.teacher = "runs/teacher"
    config.validation.update(hr=str(tmp_path / "hr"), images=3, pictures=1, sr=wanted)
    validate = validation.validation(TrainingConfig.from_flags(config))
    run: Any = SimpleNamespace(
        evaluated={"a": jnp.ones(1)}, state=SimpleNamespace(batch_stats={})
    )
    log = Log(tmp_path, start=0, total=10)
    assert validate(7, run, np.ones((441, 15), np.float32), log) == 21.0
    log.close()
    folder = tmp_path / "validation"
    assert [path.name for path in folder.glob("*.png")] == ["0_0000007.png"]
    found = sorted(path.name for path in folder.glob("sr/*.png"))
    assert found == (["0_0000007.png", "1_0000007.png", "2_0000007.png"] * wanted)
    for name in found:
        expected = picture(int(name[0])) // 3  # the student's, not bicubic's
        np.testing.assert_array_equal(Image.open(folder / "sr" / name), expected)
