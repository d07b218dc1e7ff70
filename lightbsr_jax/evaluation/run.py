"""One measurement, from a config to its report: what eval.py does."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import benchmark, pictures, report
from lightbsr_jax.evaluation.benchmark import Restore, Restored, Score
from lightbsr_jax.imaging import files
from lightbsr_jax.model import Model

METHODS = ("lightbsr", "bicubic")


def run(
    config: ConfigDict,
    *,
    method: str,
    workdir: str | None,
    folders: Sequence[str],
    output: str | None,
) -> str:
    """Measures `method` ("lightbsr" or "bicubic"), returns the result as Markdown.

    config is that of configs/benchmark.py. LightBSR is read from workdir and measured
    beside bicubic. Without folders the config's benchmarks are measured. table.md,
    results.json, images.csv and panels/ go into output: for LightBSR a folder of
    workdir by default, for bicubic nowhere.
    """
    model = _load(config, workdir) if method == "lightbsr" else None
    folders = list(folders) or [
        str(Path(config.root, name)) for name in config.benchmarks
    ]
    if not folders:
        raise UserError(
            "no benchmark to measure: pass --benchmarks=FOLDER[,FOLDER] (folders of "
            "high-resolution images) or take a preset that names some, such as "
            "--config=configs/benchmark.py:table3"
        )
    scale = model.scale if model else config.scale or 4
    name = "bicubic"
    if model:
        name = "LightBSR" if model.role == "student" else f"LightBSR {model.role}"
    if model and output is None:
        output = str(Path(workdir, "evaluation", f"setting{config.setting}"))
    cases = benchmark.cases(
        config.setting,
        sigmas=config.sigmas,
        kernel_parameters=config.kernels,
        noise_levels=config.noise_levels,
    )
    bicubic = benchmark.bicubic(scale)

    def save_panel(restored: Restored) -> None:
        if output is not None and restored.position < config.panels:
            folder = Path(output, "panels")
            folder.mkdir(parents=True, exist_ok=True)
            panel = pictures.panel(restored, name, crop=config.panel_crop)
            files.write_png(folder / _file_name(restored.score), panel)

    def measure(title: str, restore: Restore, on_restored=None) -> list[Score]:
        return benchmark.evaluate(
            restore,
            folders,
            cases,
            scale=scale,
            batch_size=config.batch_size,
            seed=config.seed,
            on_progress=_progress(title),
            on_restored=on_restored,
        )

    about = {"config": config.to_dict()}
    if model:
        baseline = measure("bicubic", bicubic)
        methods = {name: measure(name, model.restore, save_panel), "bicubic": baseline}
        about["model"] = {"workdir": workdir, "role": model.role, "step": model.step}
    else:
        methods = {name: measure(name, bicubic, save_panel)}
    if output is None:
        return report.markdown_table(methods, scale=scale)
    return report.write(output, methods, scale=scale, about=about)


def _load(config: ConfigDict, workdir: str | None) -> Model:
    """The model in `workdir`, when the config measures what it was made for."""
    if workdir is None:
        raise UserError(
            "--method=lightbsr needs --workdir=FOLDER, the folder of a training run: "
            "train one with train.py, or measure --method=bicubic, which needs none"
        )
    model = Model.load(workdir)
    if model.setting != config.setting:
        raise UserError(
            f"the {model.role} in {workdir} was trained in setting {model.setting}, "
            f"but the config measures setting {config.setting}: take "
            f"--config=configs/benchmark.py:setting{model.setting}, or "
            f"--config.setting={model.setting}"
        )
    if config.scale not in (None, model.scale):
        raise UserError(
            f"the {model.role} in {workdir} is for scale {model.scale}, but "
            f"--config.scale is {config.scale}: leave that out"
        )
    return model


def _file_name(score: Score) -> str:
    """Such as "Set5-baby-sigma-2.4.png": letters, digits, dots and dashes only."""
    text = f"{score.benchmark} {Path(score.image).with_suffix('')} {score.case}"
    words = "".join(c if c.isalnum() or c == "." else " " for c in text).split()
    return "-".join(words) + ".png"


def _progress(title: str) -> Callable[[int, int], None] | None:
    """A counter on the terminal; none where standard error is a file."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{title}: {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show
