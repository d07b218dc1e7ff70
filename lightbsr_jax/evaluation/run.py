"""One measurement, from a config to its report: what eval.py does."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

import lightbsr_jax
from lightbsr_jax import compilation
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import (
    benchmark,
    cases,
    cost,
    idr,
    images,
    pictures,
    report,
    tables,
)
from lightbsr_jax.evaluation.benchmark import Restored
from lightbsr_jax.evaluation.cases import Case
from lightbsr_jax.evaluation.findings import Findings, Network
from lightbsr_jax.evaluation.idr import Separation
from lightbsr_jax.evaluation.pictures import Example
from lightbsr_jax.evaluation.restorers import Bicubic, Restorer, Spoilt
from lightbsr_jax.imaging import files, settings
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks import complexity

BICUBIC = "bicubic"

_READ = "read from {}"
_MADE = (
    "made here: kernel correlated with reflected borders, antialiased bicubic with "
    "clamped borders, noise that follows from seed {}, the image and the case, rounded "
    "to 8 bits"
)


def run(
    config: ConfigDict,
    *,
    sources: Sequence[str | Path] = (),
    folders: Sequence[str] = (),
    report_folder: str | None = None,
    dump_lr: str | None = None,
    lr_folder: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Measures bicubic, and networks beside it; says the tables in Markdown.

    config is that of configs/benchmark.py. `sources` are workdirs, or weights' names or
    files (see `Model.load`); the first one's network has the report, the others stand
    beside it. Without folders the config's benchmarks are measured. The report goes
    into report_folder: by default into the first workdir, and nowhere without one.
    Low-resolution images are written below dump_lr, or read from lr_folder:
    `images.lr_path` says where they lie. Of several processes the first one reports.
    """
    models = _load(config, sources)
    first = next(iter(models.values()), None)
    scale = first.scale if first else config.scale or 4
    folders = list(folders) or [
        str(Path(config.root, name)) for name in config.benchmarks
    ]
    if not folders:
        raise UserError(
            "no benchmark to measure: pass --benchmarks=FOLDER[,FOLDER] (folders of "
            "high-resolution images) or take a preset that names some, such as "
            "--config=configs/benchmark.py:table3"
        )
    if dump_lr is not None and lr_folder is not None:
        raise UserError("--dump-lr writes what --lr-dir reads: give one of them")
    if config.spoilt and not models:
        raise UserError("config.spoilt is for a network: bicubic has no IDR")
    if dump_lr or lr_folder:
        _check_names(folders)
    tested = _cases(config, config.setting)
    pictured = tested[len(tested) // 2].label
    if sources and Path(sources[0]).is_dir() and report_folder is None:
        leaf = f"setting{config.setting}" if config.setting else "given"
        report_folder = str(Path(sources[0], "evaluation", leaf))
    if report_folder is not None:
        Path(report_folder).mkdir(parents=True, exist_ok=True)  # fails now or never

    restorers: dict[str, Restorer] = {BICUBIC: Bicubic(scale)}
    for name, model in models.items():
        restorers[name] = Spoilt(model) if config.spoilt else model
    examples: list[Example] = []

    def on_restored(restored: Restored) -> None:
        if dump_lr is not None:
            case = next(case for case in tested if case.label == restored.case)
            path = images.lr_path(dump_lr, restored.benchmark, restored.image, case)
            files.write_png(path, restored.lr)
        if report_folder is not None and restored.case == pictured:
            examples.append(pictures.example(restored, crop=config.crop))

    began = time.monotonic()
    with compilation.counted() as compiled, _progress() as on_progress:
        scores = benchmark.evaluate(
            restorers,
            folders,
            tested,
            scale=scale,
            batch_size=config.batch_size,
            seed=config.seed,
            lr_folder=lr_folder,
            share=True,
            on_progress=on_progress,
            on_restored=on_restored,
        )
    seconds = time.monotonic() - began
    if jax.process_index() > 0:
        return
    measured = tables.make(
        scores,
        tested,
        scale=scale,
        parameters={
            name: complexity.parameters(model.variables["params"]) / 1e6
            for name, model in models.items()
        },
        teacher=first is not None and first.title == "LightBSR teacher",
    )
    for table in measured:
        say(tables.markdown(table))
    say(benchmark.convention(scale))
    if report_folder is None:
        return
    method, origin = BICUBIC, None
    if first is not None:
        method = next(iter(models))
        origin = {
            "source": str(sources[0]),
            "role": first.role,
            "step": int(first.step),
        }
    found = Findings(
        method=method,
        title=_title(method, first, config, scale),
        scores=scores,
        tables=measured,
        examples=pictures.spread(examples, method, config.pictures),
        networks={
            name: Network(cost.measure(model), _separation(config, model, folders))
            for name, model in models.items()
        },
        about={
            "scale": scale,
            "config": config.to_dict(),
            "model": origin,
            "lr": _READ.format(lr_folder) if lr_folder else _MADE.format(config.seed),
            "seconds": seconds,
            "compilation": asdict(compiled),
            **_surroundings(),
        },
    )
    report.write(report_folder, found)
    say(f"\nReport: {Path(report_folder, 'report.html')}")


def _load(config: ConfigDict, sources: Sequence[str | Path]) -> dict[str, Model]:
    """The networks by what they are called, each its own; its source tells namesakes.

    Raises UserError where the config measures something else than they were made for.
    """
    models = [Model.load(source) for source in sources]
    titles = [model.title for model in models]
    named = {}
    for source, model, title in zip(sources, models, titles, strict=True):
        if config.setting not in (None, model.setting):
            raise UserError(
                f"the {model.role} in {source} was trained in setting {model.setting}, "
                f"but the config measures setting {config.setting}: take "
                f"--config=configs/benchmark.py:setting{model.setting}, or "
                f"--config.setting={model.setting}"
            )
        if config.scale not in (None, model.scale):
            raise UserError(
                f"the {model.role} in {source} is for scale {model.scale}, but "
                f"--config.scale is {config.scale}: leave that out"
            )
        own = f" ({source})" if titles.count(title) > 1 else ""
        named[title + own + " (spoilt IDR)" * config.spoilt] = model
    every = ", ".join(map(str, sources))
    if len(named) < len(models):
        raise UserError(f"{every}: a network is named twice")
    if len({(model.scale, model.setting) for model in models}) > 1:
        raise UserError(f"{every}: networks of different scales or settings")
    return named


def _separation(
    config: ConfigDict, model: Model, folders: Sequence[str]
) -> Separation | None:
    """Figure 5: on B100, or on all images where B100 was not measured."""
    found = images.find(folders)
    b100 = [image for image in found if image.benchmark == "B100"]
    return idr.separation(
        model,
        [image.read() for image in b100 or found],
        _cases(config.idr, model.setting),
    )


def _cases(config: ConfigDict, setting: settings.Name | None) -> list[Case]:
    """Those of a config's values of the setting's parameters."""
    tested = settings.of(setting).tested if setting is not None else {}
    return cases.make(setting, **{name: config[name] for name in tested})


def _surroundings() -> dict[str, Any]:
    """What it was measured with."""
    return {
        "devices": f"{jax.device_count()} device(s): {cost.device_name()}",
        "versions": {
            "lightbsr_jax": lightbsr_jax.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _title(name: str, model: Model | None, config: ConfigDict, scale: int) -> str:
    """Such as "LightBSR at step 679000, x4, setting 1"."""
    step = f" at step {model.step}" if model and model.step else ""
    setting = f"setting {config.setting}" if config.setting else "given images"
    return f"{name}{step}, x{scale}, {setting}"


def _check_names(folders: Sequence[str]) -> None:
    """Raises UserError where two images would have one low-resolution file."""
    seen = {}
    for image in images.find(folders):
        stem = (image.benchmark, Path(image.name).with_suffix(""))
        if stem in seen:
            raise UserError(
                f"{seen[stem]} and {image.name} of {image.benchmark} would have the "
                "same low-resolution file: rename one"
            )
        seen[stem] = image.name


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left on the terminal; nothing where there is none."""
    console = Console(stderr=True)
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images, ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
