"""What a run's network is worth so far."""

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
from ml_collections import ConfigDict

from lightbsr_jax.data.sources import first_images
from lightbsr_jax.evaluation import benchmark, cases, pictures
from lightbsr_jax.evaluation.restorers import Bicubic, Restorer
from lightbsr_jax.methods import registry
from lightbsr_jax.models.model import Model
from lightbsr_jax.training import parallel
from lightbsr_jax.training.log import Log
from lightbsr_jax.training.state import Run


def validation(
    config: ConfigDict, basis: np.ndarray
) -> Callable[[int, Run, Log], None]:
    """validate(step, run, log): PSNR and SSIM of a run's network, and pictures.

    The first process measures.
    """
    if not config.validation.hr or not parallel.is_main_process():
        return lambda step, run, log: None
    images = first_images(config.validation.hr, config.validation.images)
    tested = cases.make(config.setting)
    pictured = tested[len(tested) // 2].label
    bicubic = Bicubic(config.scale)

    def measure(
        restorers: dict[str, Restorer],
        on_restored: Callable[[benchmark.Restored], None] | None = None,
    ) -> list[benchmark.Score]:
        return benchmark.evaluate(
            restorers,
            images,
            tested,
            scale=config.scale,
            batch_size=1,  # beside a training's memory
            on_restored=on_restored,
        )

    # Before training: images that cannot be scored are an error now, not later.
    measure({"bicubic": bicubic})

    network = registry.make_network(config)

    def validate(step: int, run: Run, log: Log) -> None:
        state = run.state
        variables = {"params": run.evaluated, "batch_stats": state.batch_stats}
        variables = parallel.on_first_device(variables)
        model = Model(
            config.role,
            config.setting,
            network,
            variables,
            basis,
            step,
            prior=config.get("prior", True),
        )

        def picture(restored: benchmark.Restored) -> None:
            if (
                restored.case == pictured
                and restored.position < config.validation.pictures
            ):
                panel = pictures.panel(restored.images, restored.scores)
                log.picture(step, Path(restored.image).stem, panel)

        scores = measure({"bicubic": bicubic, config.role: model}, picture)
        ours = [score for score in scores if score.method == config.role]
        theirs = [score for score in scores if score.method == "bicubic"]
        log.validation(
            step,
            {
                "validation_psnr": fmean(score.psnr for score in ours),
                "validation_psnr_bicubic": fmean(score.psnr for score in theirs),
                "validation_ssim": fmean(score.ssim for score in ours),
            },
        )

    return validate
