"""Running one measurement, from its config to its report: the work of eval.py."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
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
from lightbsr_jax import atomic, compilation
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import (
    benchmark,
    cost,
    idr,
    images,
    pictures,
    report,
    sheet,
    tables,
    unpaired,
)
from lightbsr_jax.evaluation.benchmark import Beside, Restored, Score
from lightbsr_jax.evaluation.config import Measurement
from lightbsr_jax.evaluation.findings import Findings, Network
from lightbsr_jax.evaluation.idr import Separation
from lightbsr_jax.evaluation.images import TestImage
from lightbsr_jax.evaluation.lpips import LPIPS
from lightbsr_jax.evaluation.pictures import Example
from lightbsr_jax.evaluation.restorers import (
    BICUBIC,
    INTERPOLATIONS,
    LANCZOS,
    PASSES,
    Bicubic,
    Contender,
    Lanczos,
    Restorer,
    SelfEnsemble,
    Spoilt,
)
from lightbsr_jax.evaluation.tables import Table
from lightbsr_jax.imaging import files, settings
from lightbsr_jax.imaging.settings import Case
from lightbsr_jax.models import packed
from lightbsr_jax.models.load import Source, load
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks import complexity
from lightbsr_jax.spec import Sees

_READ = "read from {}"
_MADE = "made here: {}, rounded to 8 bits"


class Measured(NamedTuple):
    """The networks, images and cases of a measurement."""

    networks: dict[str, Model]  # by name, the first one first
    contenders: list[Contender]  # interpolations, then the networks
    beside: Beside  # what is measured beside PSNR and SSIM
    scale: int
    images: list[TestImage]  # of HR, or without HR if config.unpaired
    cases: list[Case]

    @property
    def first(self) -> Contender:
        """The contender that the report describes."""
        return self.contenders[-len(self.networks) if self.networks else 0]

    @property
    def pictured(self) -> str:
        """The case that the report shows pictures of."""
        return self.cases[len(self.cases) // 2].label


class Outcome(NamedTuple):
    """Scores and examples of a measurement, with its time and compilations."""

    scores: list[Score]
    examples: list[Example]  # those that the report shows
    seconds: float
    compiled: compilation.Compilations


def run(
    config: ConfigDict,
    *,
    sources: Sequence[str | Path] = (),
    folders: Sequence[str] = (),
    report_folder: str | None = None,
    dump_lr: str | None = None,
    dump_sr: str | None = None,
    lr_folder: str | None = None,
    lpips: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Measures bicubic and networks, and passes the tables in Markdown to `say`.

    `config` is a config of configs/benchmark.py. `sources` are workdirs, or names or
    files of weights (see models.load). The report describes the network of the first
    source and compares it with the others. Without `folders` the config's benchmarks
    are measured. The report is written to `report_folder`; by default that lies in the
    first workdir, and without a workdir there is no report. Low-resolution images are
    written below `dump_lr`, or read from `lr_folder`, at the paths of `images.lr_path`;
    restored ones are written below `dump_sr`, at those of `images.sr_path`. `lpips` is
    a file with the network of LPIPS. If several processes share the work, the first one
    reports.
    """
    wanted = Measurement.from_flags(config)
    measured = _prepare(wanted, sources, folders, lpips)
    if dump_sr is not None:
        _check_slugs([BICUBIC, LANCZOS, *measured.networks])
    if wanted.unpaired:
        _refuse_what_takes_hr(dump_lr=dump_lr, lr_dir=lr_folder, lpips=lpips)
        if dump_sr is not None:
            _check_names(measured.images)
    else:
        _check_lr_folders(measured, dump_lr, lr_folder, dump_sr)
    if report_folder is None:
        report_folder = _default_report(wanted, measured, sources)
    if report_folder is not None:
        for image in measured.images:
            images.check_outside(Path(report_folder), image)
        _make_folder(Path(report_folder))  # fails before the measurement, not after
    if wanted.unpaired:
        if jax.process_index() == 0:
            _run_unpaired(wanted, measured, sources, report_folder, dump_sr, say)
        _wait_for_each_other()
        return

    outcome = _measure(wanted, measured, dump_lr, dump_sr, lr_folder, report_folder)
    if jax.process_index() == 0:
        _report(wanted, measured, outcome, sources, report_folder, lr_folder, say)
    _wait_for_each_other()


def _wait_for_each_other() -> None:
    """Lets no process end before the first one, which still writes the report."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the measurement has ended")


def _report(
    wanted: Measurement,
    measured: Measured,
    outcome: Outcome,
    sources: Sequence[str | Path],
    report_folder: str | None,
    lr_folder: str | None,
    say: Callable[[str], None],
) -> None:
    """Passes the tables to `say`, and writes the report if it has a folder."""
    tabled = tables.make(
        outcome.scores,
        measured.cases,
        scale=measured.scale,
        contenders=measured.contenders,
        paper=wanted.measures.are_the_papers(measured.scale),
    )
    for table in tabled:
        say(tables.markdown(table))
    say(benchmark.convention(measured.scale, measured.beside.names, wanted.measures))
    if report_folder is not None:
        about = _about(wanted, measured, outcome, sources, lr_folder)
        report.write(report_folder, _findings(wanted, measured, outcome, tabled, about))
        say(f"\nReport: {Path(report_folder, 'report.html')}")


def _run_unpaired(
    wanted: Measurement,
    measured: Measured,
    sources: Sequence[str | Path],
    report_folder: str | None,
    dump_sr: str | None,
    say: Callable[[str], None],
) -> None:
    """Measures pictures that have no HR images."""
    names = [contender.name for contender in measured.contenders]
    border = wanted.measures.cut(measured.scale)
    began = time.monotonic()
    with _progress() as on_progress:
        found = unpaired.measure(
            measured.networks,
            measured.images,
            scale=measured.scale,
            border=border,
            crop=wanted.crop,
            pictures=wanted.pictures if report_folder is not None else 0,
            dump_sr=dump_sr,
            on_progress=on_progress,
        )
    say(unpaired.table(found, names))
    say(unpaired.CONVENTION.format(border=border))
    if report_folder is not None:
        about = {
            "scale": measured.scale,
            "border": border,
            "config": wanted.as_given,
            "model": _model(measured, sources),
            "seconds": time.monotonic() - began,
            **_surroundings(),
        }
        title = f"{measured.first.name}, x{measured.scale}, pictures without HR"
        sheet.write(report_folder, title, found, names, about)
        say(f"\nReport: {Path(report_folder, 'report.html')}")


def _refuse_what_takes_hr(**given: str | None) -> None:
    """Raises UserError for flags that make no sense without HR images."""
    for name, value in given.items():
        if value:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} needs HR images: remove it with unpaired")


def _prepare(
    wanted: Measurement,
    sources: Sequence[str | Path],
    folders: Sequence[str],
    lpips: str | None,
) -> Measured:
    """Loads the networks and finds the images.

    Raises UserError if the networks cannot be measured together, and as `images.find`.
    """
    networks = _load(wanted, sources)
    first = next(iter(networks.values()), None)
    folders = list(folders) or [
        str(Path(wanted.root, name)) for name in wanted.benchmarks
    ]
    if not folders:
        raise UserError(
            "no benchmark to measure: pass --benchmarks=FOLDER[,FOLDER] (folders of "
            "high-resolution images) or use a preset that names some, such as "
            "--config=configs/benchmark.py:table3"
        )
    if wanted.spoilt and not networks:
        raise UserError("config.spoilt is for a network: bicubic has no IDR")
    _check_ensemble(wanted, networks)
    if wanted.measures.channels not in ("y", "rgb") or wanted.measures.cut(0) < 0:
        raise UserError(
            f"config.channels={wanted.measures.channels}, config.border="
            f"{wanted.measures.border}: expected y or rgb, and 0 or more pixels"
        )
    if wanted.unpaired and (wanted.spoilt or not wanted.niqe or not wanted.lanczos):
        raise UserError(
            "config.unpaired always measures NIQE of networks, bicubic and Lanczos: "
            "use --config=configs/benchmark.py:unpaired, without config.spoilt"
        )
    cases = wanted.cases()
    for model in networks.values():
        wanted.separated_cases(model.setting)  # measured last
    if not cases:
        raise UserError("the config leaves no degradation to measure")
    labels = [case.label for case in cases]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(
            f"the config has the degradation {twice!r} twice, or two that print as "
            "this: remove one"
        )
    scale = first.scale if first else wanted.scale or 4
    smallest = {"scale": 1, "pictures": 0, "crop": scale, "seed": 0, "batch_size": 1}
    for field, least in smallest.items():
        value = getattr(wanted, field)
        if value is not None and value < least:
            raise UserError(f"config.{field}={value}: expected {least} or more")
    interpolations = INTERPOLATIONS if wanted.lanczos else (BICUBIC,)
    contenders = [Contender(name, name) for name in interpolations]
    contenders += [_contender(name, model) for name, model in networks.items()]
    return Measured(
        networks=networks,
        contenders=contenders,
        beside=Beside(wanted.niqe, LPIPS(lpips) if lpips else None),
        scale=scale,
        images=unpaired.find(folders)
        if wanted.unpaired
        else images.find(folders, scale=scale),
        cases=cases,
    )


def _contender(name: str, model: Model) -> Contender:
    parameters = complexity.parameters(model.variables["params"])
    return Contender(name, model.spec.method, model.role, parameters)


def _check_ensemble(wanted: Measurement, networks: dict[str, Model]) -> None:
    """Raises UserError if a self-ensemble was requested of an unsuitable network."""
    if not wanted.self_ensemble:
        return
    if not networks or wanted.spoilt or wanted.unpaired:
        raise UserError(
            "config.self_ensemble is for networks with their own IDR and pairs of "
            "images: leave it out"
        )
    for name, model in networks.items():
        if model.spec.sees is not Sees.NOTHING:
            raise UserError(
                f"config.self_ensemble: {name} has inputs besides the LR image that "
                "cannot be flipped: evaluate a student"
            )


def _check_lr_folders(
    measured: Measured,
    dump_lr: str | None,
    lr_folder: str | None,
    dump_sr: str | None,
) -> None:
    """Raises UserError if images cannot be written or read as requested."""
    if dump_lr is not None and lr_folder is not None:
        raise UserError("--dump-lr writes what --lr-dir reads: give one of them")
    if not (dump_lr or lr_folder or dump_sr):
        return
    _check_slugs([case.label for case in measured.cases])
    _check_names(measured.images)
    for dump in filter(None, (dump_lr, dump_sr)):
        for image in measured.images:
            images.check_outside(Path(dump, image.benchmark), image)


def _check_slugs(names: Sequence[str]) -> None:
    """Raises UserError if images of two methods or cases would have the same folder."""
    folders: dict[str, str] = {}
    for name in names:
        other = folders.setdefault(images.slug(name), name)
        if other != name:
            raise UserError(
                f"the images of {other!r} and {name!r} would both be in "
                f"{images.slug(name)}: evaluate one at a time"
            )


def _default_report(
    wanted: Measurement, measured: Measured, sources: Sequence[str | Path]
) -> str | None:
    """A folder in the first workdir, for these benchmarks and step; None without."""
    if not sources or str(sources[0]) in packed.shipped():
        return None
    workdir = packed.at_step(sources[0])[0]
    if workdir is None or not workdir.is_dir():
        return None
    leaf = f"setting{wanted.setting}" if wanted.setting else "given"
    leaf = "unpaired" if wanted.unpaired else leaf
    model = measured.networks.get(measured.first.name)
    benchmarks = dict.fromkeys(image.benchmark for image in measured.images)
    name = _report_name(list(benchmarks), model)
    name += "-spoilt" * wanted.spoilt + "-self-ensemble" * wanted.self_ensemble
    return str(workdir / "evaluation" / leaf / name)


def _measure(
    wanted: Measurement,
    measured: Measured,
    dump_lr: str | None,
    dump_sr: str | None,
    lr_folder: str | None,
    report_folder: str | None,
) -> Outcome:
    """Measures everything; the first process chooses examples for a report."""
    restorers: dict[str, Restorer] = {BICUBIC: Bicubic(measured.scale)}
    if wanted.lanczos:
        restorers[LANCZOS] = Lanczos(measured.scale)
    for name, model in measured.networks.items():
        restorers[name] = Spoilt(model) if wanted.spoilt else model
        if wanted.self_ensemble:
            restorers[name] = SelfEnsemble(model)
    by_label = {case.label: case for case in measured.cases}
    shows = report_folder is not None and jax.process_index() == 0
    pictured = measured.pictured if shows and wanted.pictures > 0 else None

    def on_restored(restored: Restored) -> None:
        if dump_lr is not None:
            case = by_label[restored.case]
            path = images.lr_path(dump_lr, restored.benchmark, restored.image, case)
            files.write_png(path, restored.lr)
        if dump_sr is not None:
            _write_sr(dump_sr, restored, by_label[restored.case])
        if restored.case == pictured:
            shelf.add(pictures.example(restored, crop=wanted.crop))

    began = time.monotonic()
    with (
        pictures.Shelf(report_folder) as shelf,
        compilation.counted() as compiled,
        _progress() as on_progress,
    ):
        scores = benchmark.evaluate(
            restorers,
            measured.images,
            measured.cases,
            scale=measured.scale,
            batch_size=wanted.batch_size,
            seed=wanted.seed,
            lr_folder=lr_folder,
            share=True,
            beside=measured.beside,
            measures=wanted.measures,
            on_progress=on_progress,
            on_restored=on_restored,
        )
        seconds = time.monotonic() - began
        examples = shelf.spread(measured.first.name, wanted.pictures)
    return Outcome(scores, examples, seconds, compiled)


def _write_sr(folder: str, restored: Restored, case: Case) -> None:
    """Writes the SR images of one image by every method."""
    for method, pixels in restored.sr.items():
        benchmark, image = restored.benchmark, restored.image
        path = images.sr_path(folder, benchmark, image, case, method)
        files.write_png(path, pixels)


def _findings(
    wanted: Measurement,
    measured: Measured,
    outcome: Outcome,
    tabled: list[Table],
    about: dict[str, Any],
) -> Findings:
    """Everything that the report shows; measures the networks' cost and separation."""
    first = measured.first
    return Findings(
        contender=first,
        title=_title(wanted, measured),
        scores=outcome.scores,
        tables=tabled,
        examples=outcome.examples,
        networks={
            name: Network(
                cost.measure(model, passes=PASSES if wanted.self_ensemble else 1),
                _separation(wanted, model, measured.images),
            )
            for name, model in measured.networks.items()
        },
        about=about,
    )


def _about(
    wanted: Measurement,
    measured: Measured,
    outcome: Outcome,
    sources: Sequence[str | Path],
    lr_folder: str | None,
) -> dict[str, Any]:
    """The description of the measurement for results.json."""
    return {
        "scale": measured.scale,
        "beside": measured.beside.names,
        "convention": benchmark.convention(
            measured.scale, measured.beside.names, wanted.measures
        ),
        "config": wanted.as_given,
        "model": _model(measured, sources),
        "lr": _origin(wanted, lr_folder),
        "seconds": outcome.seconds,
        "compilation": asdict(outcome.compiled),
        "processes": jax.process_count(),
        **_surroundings(),
    }


def _model(measured: Measured, sources: Sequence[str | Path]) -> dict[str, Any] | None:
    """The network that the report describes, for results.json."""
    if not measured.networks:
        return None
    model = measured.networks[measured.first.name]
    return {"source": str(sources[0]), "role": model.role, "step": int(model.step)}


def _origin(wanted: Measurement, lr_folder: str | None) -> str:
    """The origin of LR images, in words."""
    if lr_folder or wanted.setting is None:
        return _READ.format(lr_folder)
    return _MADE.format(settings.of(wanted.setting).protocol.format(wanted.seed))


def _load(wanted: Measurement, sources: Sequence[Source]) -> dict[str, Model]:
    """Loads the networks, by unique names: equal titles get their source appended.

    Raises UserError if the config's setting or scale does not fit them.
    """
    models = [load(source, setting=wanted.setting) for source in sources]
    titles = [model.title for model in models]
    named = {}
    for source, model, title in zip(sources, models, titles, strict=True):
        if not _may_be_measured(model, wanted.setting):
            own = model.setting
            preset = own if isinstance(own, str) else f"setting{own}"
            raise UserError(
                f"the {model.role} in {source} was trained in setting {own}, but the "
                f"config measures setting {wanted.setting}: use "
                f"--config=configs/benchmark.py:{preset}"
            )
        if wanted.scale not in (None, model.scale):
            raise UserError(
                f"the {model.role} in {source} is for scale {model.scale}, but "
                f"--config.scale is {wanted.scale}: leave --config.scale out"
            )
        name = f"{title} ({source})" if titles.count(title) > 1 else title
        name = f"{name} (spoilt IDR)" if wanted.spoilt else name
        named[f"{name}, self-ensemble" if wanted.self_ensemble else name] = model
    every = ", ".join(map(str, sources))
    if len(named) < len(models):
        raise UserError(f"{every}: a network is named twice: name it once")
    if len({model.scale for model in models}) > 1:
        raise UserError(f"{every}: networks of different scales: measure them apart")
    return named


def _may_be_measured(model: Model, setting: settings.Name | None) -> bool:
    """Returns whether a network can be tested on the degradations of a setting."""
    if setting in (None, model.setting):
        return True
    # A teacher's prior describes only degradations of its own setting.
    return settings.of(setting).for_all and model.role != "teacher"


def _separation(
    wanted: Measurement, model: Model, found: Sequence[TestImage]
) -> Separation | None:
    """Figure 5: measured on B100, or on all images if B100 is not among them."""
    b100 = [image for image in found if image.benchmark == "B100"]
    return idr.separation(
        model,
        (image.read() for image in b100 or found),
        wanted.separated_cases(model.setting),
    )


def _surroundings() -> dict[str, Any]:
    """Devices and versions of the measurement."""
    return {
        "devices": f"{jax.device_count()} device(s): {cost.device_name()}",
        "versions": {
            "lightbsr_jax": lightbsr_jax.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _make_folder(folder: Path) -> None:
    """Makes the report's folder. Raises UserError if it cannot be written to."""
    try:
        atomic.make_writable(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}): name another folder "
            "for the report, --report=FOLDER"
        ) from error


def _report_name(benchmarks: Sequence[str], model: Model | None) -> str:
    """A name such as "Set5-Set14-step-679000"."""
    step = f"-step-{model.step}" if model and model.step else ""
    return images.slug("-".join(benchmarks)) + step


def _title(wanted: Measurement, measured: Measured) -> str:
    """A title such as "LightBSR at step 679000, x4, setting 1"."""
    name = measured.first.name
    model = measured.networks.get(name)
    step = f" at step {model.step}" if model and model.step else ""
    setting = f"setting {wanted.setting}" if wanted.setting else "given images"
    return f"{name}{step}, x{measured.scale}, {setting}"


def _check_names(found: Sequence[images.TestImage]) -> None:
    """Raises UserError if two images would have the same file of LR or SR pixels."""
    seen = {}
    for image in found:
        stem = (image.benchmark, Path(image.name).with_suffix(""))
        if stem in seen:
            raise UserError(
                f"{seen[stem]} and {image.name} of {image.benchmark} would have the "
                "same file of LR or SR pixels: rename one"
            )
        seen[stem] = image.name


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar with the time left, if there is a terminal."""
    console = Console(stderr=True)
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images, ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.file.isatty(),
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
