"""Validation of a run's network during training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from lightbsr_jax.data.sources import first_images
from lightbsr_jax.evaluation import benchmark, cases, pictures
from lightbsr_jax.evaluation.images import slugs
from lightbsr_jax.evaluation.restorers import BICUBIC, Bicubic, Restorer
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training import parallel
from lightbsr_jax.training.config import TrainingConfig
from lightbsr_jax.training.log import Log
from lightbsr_jax.training.state import Run


def validation(
    config: TrainingConfig,
) -> Callable[[int, Run, np.ndarray, Log], float | None]:
    """Makes validate(step, run, basis, log): PSNR and SSIM of a network, and pictures.

    Only the first process measures; it returns the mean PSNR in dB, the others None.
    """
    if not config.validation.hr or not parallel.is_main_process():
        return lambda step, run, basis, log: None
    spec, wanted = config.model, config.validation
    images = first_images(wanted.hr, wanted.images)
    names = slugs([Path(name).stem for name, _ in images])  # of pictures
    tested = [cases.GIVEN] if wanted.lr else cases.of_scale(spec.setting, spec.scale)
    pictured = tested[len(tested) // 2].label

    def measure(
        restorers: dict[str, Restorer],
        on_restored: Callable[[benchmark.Restored], None] | None = None,
    ) -> list[benchmark.Score]:
        return benchmark.evaluate(
            {BICUBIC: Bicubic(spec.scale), **restorers},
            images,
            tested,
            scale=spec.scale,
            batch_size=1,  # to save memory for training
            lr_folder=wanted.lr or None,
            on_restored=on_restored,
        )

    # Measure now, so that images that cannot be scored fail before training.
    measure({})

    def validate(step: int, run: Run, basis: np.ndarray, log: Log) -> float:
        def picture(restored: benchmark.Restored) -> None:
            if restored.case != pictured:
                return
            if wanted.sr:
                log.sr(step, names[restored.position], restored.sr[spec.role])
            if restored.position < wanted.pictures:
                panel = pictures.panel(restored.images, restored.scores)
                log.picture(step, names[restored.position], panel)

        model = _model(spec, run, basis, step)
        summary = _summary(spec.role, measure({spec.role: model}, picture))
        log.validation(step, summary)
        return summary["validation_psnr"]

    return validate


def _model(spec: ModelSpec, run: Run, basis: np.ndarray, step: int) -> Model:
    """The network of a run, on the first device."""
    variables = {"params": run.evaluated, "batch_stats": run.state.batch_stats}
    return Model(spec, parallel.on_first_device(variables), basis, step)


def _summary(role: str, scores: Sequence[benchmark.Score]) -> dict[str, float]:
    ours = [score for score in scores if score.method == role]
    theirs = [score for score in scores if score.method == BICUBIC]
    return {
        "validation_psnr": fmean(score.psnr for score in ours),
        "validation_psnr_bicubic": fmean(score.psnr for score in theirs),
        "validation_ssim": fmean(score.ssim for score in ours),
    }
