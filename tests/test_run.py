"""One measurement from a config to its report, and the command line."""

import csv
import dataclasses
import functools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.goldens import initialise
from helpers.pictures import picture, save
from ml_collections import ConfigDict
from PIL import Image

from configs.benchmark import get_config
from configs.student import get_config as student_config
from lightbsr_jax.commands import flags
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import cost, html, images, report, restorers, run
from lightbsr_jax.evaluation.config import Measurement
from lightbsr_jax.evaluation.findings import Findings, Network, separation_lines
from lightbsr_jax.evaluation.idr import Numbers, Separation
from lightbsr_jax.evaluation.niqe import niqe
from lightbsr_jax.evaluation.pictures import Example
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def student() -> Model:
    network = LightBSR(groups=1, blocks=1)
    variables = initialise(network, jax.random.key(0))
    basis = np.zeros((441, 15), np.float32)
    return Model(ModelSpec.of_network(network, "student", 1), variables, basis, 7)


class Page(HTMLParser):
    """The content of a page; fails on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def measure(*arguments: object, **options: object) -> str:
    """The text that `run.run` prints."""
    said: list[str] = []
    run.run(*arguments, **options, say=said.append)
    return "\n".join(said)


def test_student_beside_bicubic(tmp_path, monkeypatch) -> None:
    """All that a report has, of images large enough for tiles."""
    monkeypatch.setattr(run, "load", lambda source, **options: student())
    monkeypatch.setattr(run.cost, "SIDE", 16)
    monkeypatch.setattr(run.idr, "_TILE", 12)
    monkeypatch.setattr(run.idr, "_FEWEST", 3)
    for seed, name in enumerate(("a", "b&c", "d")):
        save(tmp_path / "Set5" / "HR" / f"{name}.png", picture(seed, 50, 56))
    config = get_config("table3")
    config.root = str(tmp_path)
    config.benchmarks = ("Set5",)
    workdir = tmp_path / "student"
    workdir.mkdir()
    text = measure(config, sources=[workdir])
    assert "**LightBSR**" in text and "LightBSR (paper)" in text
    assert "65.738" in text and "border of 4 pixels" in text
    folder = workdir / "evaluation" / "setting1" / "Set5-step-7"
    assert str(folder / "report.html") in text

    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    results = json.loads(
        (folder / "results.json").read_text(), parse_constant=no_constants
    )
    assert results["model"] == {"source": str(workdir), "role": "student", "step": 7}
    assert results["config"]["sigmas"] == [1.2, 2.4, 3.6]
    assert results["tables"][0]["kernels"][-1] == "mean"
    assert results["tables"][0]["rows"][0]["psnr"][0] == 27.69
    assert results["compilation"]["programs"] >= 1 and results["seconds"] > 0
    assert results["cost"]["parameters"] == 731_603
    assert set(results["idr"]["untrained"]) == {"silhouette", "neighbours", "probes"}
    assert results["processes"] == 1
    assert results["versions"]["jax"] == jax.__version__
    with (folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 3
    assert rows[3]["image"] == "b&c.png" and 5 < float(rows[3]["psnr"]) < 60

    # The page needs nothing beside itself, and Markdown finds what it shows.
    page = Page((folder / "report.html").read_text())
    images = [attributes for tag, attributes in page.seen if tag == "img"]
    assert len(images) == 3 * 5  # three examples: whole, LR, bicubic, LightBSR, HR
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert all(image["alt"] for image in images)
    assert not {tag for tag, _ in page.seen} & {"script", "link", "iframe"}
    assert sum(tag == "svg" for tag, _ in page.seen) == 3
    links = [attributes["href"] for tag, attributes in page.seen if tag == "a"]
    ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert links and {link.removeprefix("#") for link in links} <= set(ids)
    assert "http" not in re.sub(r'"http://www.w3.org/[^"]*"', "", page.text)
    markdown = (folder / "report.md").read_text()
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", markdown)
    assert sorted(shown) == sorted(
        path.relative_to(folder).as_posix()
        for name in ("panels", "plots")
        for path in (folder / name).iterdir()
    )


def test_bicubic_alone(tmp_path) -> None:
    """Equal images, of infinite PSNR, and a table that the paper does not have."""
    save(tmp_path / "mine" / "a.png", np.full((24, 28, 3), 90, np.uint8))
    config = get_config("setting1")
    config.scale = 2
    text = measure(
        config,
        folders=[str(tmp_path / "mine")],
        report_folder=str(tmp_path / "report"),
    )
    assert "inf / 1.0000" in text and "(paper)" not in text
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["tables"][0]["rows"][0]["psnr"] == ["inf"] * 4
    mine = tmp_path / "report" / "plots" / "other.svg"
    mine.write_text("mine")
    report = str(mine.parents[1])
    measure(config, folders=[str(tmp_path / "mine")], report_folder=report)
    assert mine.read_text() == "mine"  # not of a report
    Page((tmp_path / "report" / "report.html").read_text())


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        (
            "setting2",
            "antialiased bicubic with clamped borders, noise drawn from seed 3",
        ),
        ("jpeg", "antialiased bicubic with clamped borders, JPEG"),
        (
            "photo",
            "two rounds of blur, resizing, noise and JPEG, as 'photo' draws them",
        ),
        ("given", "read from lr"),
    ],
)
def test_a_report_says_how_its_images_were_made(preset: str, words: str) -> None:
    config = get_config(preset)
    config.seed = 3
    wanted = Measurement.from_flags(config)
    assert words in run._origin(wanted, "lr" if preset == "given" else None)


def test_images_are_found_once(tmp_path: Path, monkeypatch) -> None:
    """The images that are checked before the measurement are those it measures."""
    save(tmp_path / "mine" / "a.png", picture(1))
    found: list[Path] = []
    listed = images.layouts.hr_images

    def listing(folder: Path, scale: int | None) -> Any:
        found.append(folder)
        return listed(folder, scale)

    monkeypatch.setattr(images.layouts, "hr_images", listing)
    config = get_config("setting1")
    config.sigmas = (1.2,)
    measure(config, folders=[str(tmp_path / "mine")], dump_lr=str(tmp_path / "lr"))
    assert found == [tmp_path / "mine"]


def test_dumped_images_are_read_again(tmp_path) -> None:
    save(tmp_path / "mine" / "a.png", picture(1))
    save(tmp_path / "mine" / "b.png", picture(2))
    folders, lr = [str(tmp_path / "mine")], str(tmp_path / "lr")
    config = get_config("setting2")
    config.kernels = config.kernels[:1]
    made = measure(config, folders=folders, dump_lr=lr)
    found = [path.relative_to(lr).as_posix() for path in Path(lr).rglob("*.png")]
    assert sorted(found) == [
        f"mine/2-0.5-0-noise-{level}/{name}.png" for level in (10, 5) for name in "ab"
    ]
    config.seed = 1
    assert measure(config, folders=folders, lr_folder=lr) == made
    assert measure(config, folders=folders) != made

    config.kernels = ((3.5, 1.5, 30), (3.5, 1.5, -30))
    with pytest.raises(ValueError, match="would both be in 3.5-1.5-30-noise-5"):
        measure(config, folders=folders, dump_lr=lr)
    config.kernels = config.kernels[:1]
    save(tmp_path / "mine" / "a.jpg", picture(1))
    with pytest.raises(ValueError, match="a.jpg and a.png of mine would have the same"):
        measure(config, folders=folders, dump_lr=lr)
    with pytest.raises(ValueError, match="give one of them"):
        measure(config, folders=folders, dump_lr=lr, lr_folder=lr)


def test_figures_beside_psnr_and_restored_images(tmp_path) -> None:
    """NIQE, rows of two interpolations, and their images on disk."""
    save(tmp_path / "mine" / "a.png", picture(1, 100, 196))
    save(tmp_path / "mine" / "b.png", picture(2, 40, 40))  # too small for NIQE
    config = get_config("setting1")
    assert not config.niqe and not config.lanczos
    config.niqe = config.lanczos = True
    config.scale, config.sigmas = 2, (1.2, 2.4)
    assert get_config("photo").niqe and get_config("photo").lanczos
    text = measure(
        config,
        folders=[str(tmp_path / "mine")],
        report_folder=str(tmp_path / "report"),
        dump_sr=str(tmp_path / "sr"),
    )
    assert "PSNR (dB) / SSIM / NIQE" in text and "NIQE: on luma" in text
    assert "**bicubic**" in text and "**Lanczos**" in text
    with (tmp_path / "report" / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    assert all((row["niqe"] != "") == (row["image"] == "a.png") for row in rows)
    assert all(row["lpips"] == "" for row in rows)
    found = {p.relative_to(tmp_path / "sr") for p in (tmp_path / "sr").rglob("*.png")}
    cases = dict.fromkeys(row["case"] for row in rows)
    assert found == {
        Path("mine", images.slug(case), method, f"{name}.png")
        for case in cases
        for method in ("bicubic", "Lanczos")
        for name in "ab"
    }
    row = next(r for r in rows if r["method"] == "Lanczos" and r["image"] == "a.png")
    written = tmp_path / "sr" / "mine" / images.slug(row["case"]) / "Lanczos" / "a.png"
    assert niqe(np.asarray(Image.open(written)), border=2) == pytest.approx(
        float(row["niqe"]), abs=1e-5
    )
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert len(results["tables"][0]["rows"][0]["niqe"]) == 3  # two, and the mean
    assert "NIQE" in Page((tmp_path / "report" / "report.html").read_text()).text


def test_conventions_and_ensembles_that_make_no_sense(tmp_path) -> None:
    save(tmp_path / "Set5" / "1.png", picture(1))
    folders = [str(tmp_path / "Set5")]
    for field, value in {"channels": "ycc", "border": -1}.items():
        config = get_config("setting1")
        config[field] = value
        with pytest.raises(ValueError, match="expected y or rgb, and 0 or more pixels"):
            measure(config, folders=folders)
    config = get_config("setting1")
    config.self_ensemble = True
    with pytest.raises(ValueError, match="self_ensemble is for networks"):
        measure(config, folders=folders)
    config.self_ensemble, config.sigmas = False, (1.2, 2.4, 1.20000001)
    with pytest.raises(ValueError, match="degradation 'sigma 1.2' twice"):
        measure(config, folders=folders)
    with pytest.raises(ValueError, match="which is measured: name another"):
        measure(get_config("setting1"), folders=folders, dump_sr=str(tmp_path))
    for field, value in {"pictures": -1, "crop": 3, "seed": -1, "scale": 0}.items():
        config = get_config("setting1")
        config[field] = value
        with pytest.raises(ValueError, match=rf"config\.{field}={value}: expected"):
            measure(config, folders=folders)
    config = get_config("setting1")
    config.sigmas = ()
    with pytest.raises(ValueError, match="no degradation to measure"):
        measure(config, folders=folders)


def test_a_folder_with_the_name_of_weights_gets_no_report(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo").mkdir()
    wanted = Measurement.from_flags(get_config("setting1"))
    measured: Any = None
    assert run._default_report(wanted, measured, ["photo"]) is None


@pytest.mark.parametrize(
    ("preset", "fields", "folder"),
    [
        ("setting1", {}, "setting1/Set5-step-7"),
        ("given", {}, "given/Set5-step-7"),
        ("unpaired", {}, "unpaired/Set5-step-7"),
        ("spoilt", {}, "setting1/Set5-step-7-spoilt"),
        ("setting1", {"self_ensemble": True}, "setting1/Set5-step-7-self-ensemble"),
    ],
)
def test_default_folders_of_reports(
    tmp_path: Path, monkeypatch, preset: str, fields: dict, folder: str
) -> None:
    """None takes the place of another kind of report."""
    monkeypatch.setattr(run, "load", lambda source, **options: student())
    save(tmp_path / "Set5" / "a.png", picture(1))
    workdir = tmp_path / "student"
    workdir.mkdir()
    config = get_config(preset)
    config.update(fields)
    wanted = Measurement.from_flags(config)
    measured = run._prepare(wanted, [workdir], [str(tmp_path / "Set5")], None)
    found = run._default_report(wanted, measured, [workdir])
    assert found == str(workdir / "evaluation" / folder)


def test_names_in_reports_are_short_and_escaped() -> None:
    path = report.panel_path(0, "Set5", f"{'猫' * 85}.png", "sigma 1.2")
    assert len(path.removeprefix("panels/").encode()) <= 255
    assert report.panel_path(1, "Set5", "a/b.png") == "panels/2-Set5-a-b.png"
    titles = [f"t-SNE, LightBSR ({'猫' * 150}/{run})" for run in "ab"]
    plots = report._plots(dict.fromkeys(titles, "")).values()
    names = {plot.removeprefix("plots/") for plot in plots}
    assert len(names) == 2 and all(len(name.encode()) <= 255 for name in names)
    pixels = np.zeros((4, 4, 3), np.uint8)
    name = 'LightBSR (a"b<c)'
    page = Page(html.views("x", pixels, (0, 0, 1, 1), {name: pixels}, {}))
    assert [a["alt"] for tag, a in page.seen if tag == "img"] == ["x", f"{name} of x"]


def test_pictures_of_equal_names_have_files_of_their_own() -> None:
    assert images.slugs(["x", "y z"]) == ["x", "y-z"]
    assert images.slugs(["x", "x", "1-x"]) == ["0-x", "1-x", "2-1-x"]
    assert images.slugs(["x", "X"]) == ["0-x", "1-X"]


def test_names_are_cut_in_one_place() -> None:
    """Panels, plots and default folders of reports keep all of a name that fits."""
    name = "a" * 150
    assert name in report.panel_path(0, "Set5", f"{name}.png")
    assert run._report_name(["Set5", name], None) == f"Set5-{name}"


def test_benchmarks_of_similar_names_have_plots_of_their_own(tmp_path: Path) -> None:
    for benchmark in ("my set", "my-set"):
        save(tmp_path / benchmark / "a.png", picture(1))
    measure(
        get_config("setting1"),
        folders=[str(tmp_path / benchmark) for benchmark in ("my set", "my-set")],
        report_folder=str(tmp_path / "report"),
    )
    plots = {path.name for path in (tmp_path / "report" / "plots").iterdir()}
    assert plots == {"0-my-set.svg", "1-my-set.svg"}
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"(plots/{name})" in text for name in plots)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_page_says_if_pictures_are_of_a_share(processes: int) -> None:
    """Of several processes only the first one keeps pictures, those it measures."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    example = Example("Set5", "a", "sigma 1.2", pixels, (0, 0, 1, 1), {}, {})
    bicubic = restorers.Contender("bicubic", "bicubic")
    about = {"processes": processes}
    found = Findings(bicubic, "", [], [], [example], {}, about)
    told = "among the images that the first of 2 processes measured" in (
        html._pictures(found)
    )
    assert told == (processes == 2)


def test_networks_of_two_settings_have_probes_of_their_own() -> None:
    """Kernels of setting 1 have no direction, and its images no noise."""

    def network(**probes: float) -> Network:
        numbers = Numbers(0.5, 1.0, probes)
        found = Separation((), np.empty(0), np.empty(0), 20, 3, numbers, numbers)
        return Network(cost.Cost(1, 1, 1.0, "cpu"), found)

    first = restorers.Contender("one", "lightbsr")
    networks = {"one": network(width=0.1), "two": network(width=0.2, noise=0.3)}
    lines = separation_lines(Findings(first, "", [], [], [], networks, {}))
    assert [line[3:] for line in lines] == [
        ["R² of width", "R² of noise"],
        *[["0.100", ""]] * 2,
        *[["0.200", "0.300"]] * 2,
    ]


def test_results_have_the_separation_of_every_network() -> None:
    def network(neighbours: float) -> Network:
        numbers = Numbers(0.5, neighbours, {"width": 0.1})
        found = Separation((), np.empty(0), np.empty(0), 20, 3, numbers, numbers)
        return Network(cost.Cost(1, 1, 1.0, "cpu"), found)

    first = restorers.Contender("one", "lightbsr")
    networks = {"one": network(0.9), "two": network(0.8)}
    networks["three"] = networks["two"]._replace(separation=None)
    results = report._results(Findings(first, "", [], [], [], networks, {}))
    by_name = {name: of["idr"] for name, of in results["networks"].items()}
    assert by_name["one"] == results["idr"] and by_name["three"] is None
    assert by_name["two"]["trained"]["neighbours"] == 0.8
    assert results["networks"]["two"]["parameters"] == 1
    assert json.loads(json.dumps(results))["networks"]["one"]["idr"]["cases"] == []


def test_a_self_ensemble_costs_eight_passes() -> None:
    one, eight = cost.measure(student()), cost.measure(student(), passes=8)
    assert eight.multiply_accumulates == 8 * one.multiply_accumulates
    assert eight.seconds > one.seconds


class Uneven(NamedTuple):
    """Restores what depends on where a pixel lies."""

    def restore(self, lr: jax.Array) -> jax.Array:
        columns = jnp.arange(lr.shape[2], dtype=jnp.float32)[:, None]
        return jnp.repeat(jnp.repeat(lr * columns, 2, axis=1), 2, axis=2)


def test_self_ensemble_is_the_mean_of_all_views() -> None:
    """Of columns x counted from the left, right, and as rows y from both ends."""
    lr = np.random.default_rng(0).uniform(size=(1, 3, 5, 3)).astype(np.float32)
    x, y = np.arange(5)[:, None], np.arange(3)[:, None, None]
    weights = (x + (4 - x) + y + (2 - y)) / 4
    expected = (lr * weights).repeat(2, axis=1).repeat(2, axis=2)
    uneven: Any = Uneven()
    found = restorers.SelfEnsemble(uneven).restore(lr)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_config_and_model_fit(monkeypatch) -> None:
    model = student()

    def fit(config: ConfigDict, *sources: str, **changes: object) -> None:
        spec = dataclasses.replace(model.spec, **changes)
        changed = dataclasses.replace(model, spec=spec)
        monkeypatch.setattr(run, "load", lambda source, **options: changed)
        run.run(config, sources=sources)

    with pytest.raises(ValueError, match="configs/benchmark.py:setting2$"):
        fit(get_config("setting1"), "w", setting=2)
    with pytest.raises(ValueError, match="configs/benchmark.py:photo$"):
        fit(get_config("setting1"), "w", setting="photo")
    config = get_config("setting1")
    config.scale = 2
    with pytest.raises(ValueError, match="is for scale 4.*--config.scale is 2"):
        fit(config, "w")
    with pytest.raises(ValueError, match="w, w: a network is named twice"):
        fit(get_config("setting1"), "w", "w")
    with pytest.raises(ValueError, match="--benchmarks=FOLDER"):
        fit(get_config("setting1"), "w")
    config = get_config("spoilt")
    config.benchmarks = ("Set5",)
    with pytest.raises(ValueError, match="bicubic has no IDR"):
        fit(config)
    config = get_config("setting1")
    config.benchmarks = ("Set5",)
    config.idr.sigmas = ("a",)
    with pytest.raises(UserError, match=r"config\.idr\.sigmas \('a',\): 'a' is not"):
        fit(config, "w")
    with pytest.raises(UserError, match=r"config\.root is missing: .*benchmark\.py"):
        fit(student_config("setting1"), "w")


@pytest.mark.parametrize("preset", ["given", "unpaired"])
def test_networks_of_two_settings_restore_given_images(
    preset: str, monkeypatch
) -> None:
    """A state dict does not even store its setting."""

    def loaded(source: str, **options: object) -> Model:
        spec = dataclasses.replace(student().spec, setting=int(source[-1]))
        return dataclasses.replace(student(), spec=spec)

    monkeypatch.setattr(run, "load", loaded)
    wanted = Measurement.from_flags(get_config(preset))
    networks = run._load(wanted, ["run1", "run2"])
    assert {name: model.setting for name, model in networks.items()} == {
        "LightBSR (run1)": 1,
        "LightBSR (run2)": 2,
    }


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XDG_CACHE_HOME": str(cwd / "cache"),
        },
        timeout=120,
    )


def test_command_line(tmp_path) -> None:
    """The program itself, from another folder than its own; what it keeps and where."""
    save(tmp_path / "data" / "Set5" / "a.png", picture(1))
    done = python(
        str(ROOT / "eval.py"),
        "--method=bicubic",
        "--config.sigmas=(2.4,)",
        f"--benchmarks={tmp_path / 'data' / 'Set5'}",
        "--report=out",
        "--dump-lr=lr",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "| method " in done.stdout and "sigma 2.4" in done.stdout
    assert not done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "report.html",
        "report.md",
        "results.json",
        "images.csv",
        "panels",
        "plots",
    }
    assert (tmp_path / "lr" / "Set5" / "sigma-2.4" / "a.png").exists()
    assert (tmp_path / "cache" / "lightbsr_jax" / "compiled").is_dir()

    done = python(str(ROOT / "eval.py"), "--benchmarks=data/Set5", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no network to measure: give --workdir=")
    done = python(str(ROOT / "eval.py"), "--method=bicubic", "--report=", cwd=tmp_path)
    assert done.stderr == "error: --report: an empty name: is a variable unset?\n"
    given = "--workdir=a", "--weights=", "--benchmarks=data/Set5"
    done = python(str(ROOT / "eval.py"), *given, cwd=tmp_path)
    assert done.stderr == "error: --weights: an empty name: is a variable unset?\n"


SMALL_PROGRAM = """
import sys
from lightbsr_jax.commands import flags
CONFIG = flags.define_config("config.py")
def main():
    print(CONFIG.value.batch_size, CONFIG.value.optimiser.learning_rate)
    if CONFIG.value.bug:
        int("a bug")
    open("missing file")
flags.run(main)
"""

SMALL_CONFIG = """
from ml_collections import ConfigDict
def get_config(preset="a"):
    if preset != "a":
        raise ValueError(f"no preset {preset}")
    optimiser = {"learning_rate": 0.5}
    return ConfigDict({"batch_size": 8, "bug": False, "optimiser": optimiser}).lock()
"""


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.btch_size=3", "--config.batch_size?"),
        ("--config.optimiser.lernin_rate=3", "--config.optimiser.learning_rate?"),
        ("--config.optimizer.learning_rate=3", "--config.optimiser.learning_rate?"),
        ("--config.zzz=3", "did you mean --config."),
        ("--config.batch_size=x", "--config.batch_size=x"),
        ("--config=config.py:b", "no preset b"),
        ("--config=nowhere.py", "nowhere.py"),
        ("--config=techer:demo", "no config 'techer': did you mean teacher?"),
        ("--cnfig=config.py", "cnfig"),
        ("extra", "'extra' is not a flag"),
        ("--config.batch_size=9", "missing file"),  # passes; main() fails
    ],
)
def test_mistakes_are_one_line(tmp_path, argument, message):
    (tmp_path / "program.py").write_text(SMALL_PROGRAM)
    (tmp_path / "config.py").write_text(SMALL_CONFIG)
    done = python("program.py", argument, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_what_is_no_config_is_named(tmp_path):
    (tmp_path / "program.py").write_text(SMALL_PROGRAM)
    (tmp_path / "other.py").write_text("get_confg = 1")
    done = python("program.py", "--config=other.py", cwd=tmp_path)
    assert done.stderr == "error: --config=other.py: the file defines no get_config\n"


def test_processes_have_equally_many_devices() -> None:
    flags._check_devices([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"\(process 0: 3, process 1: 2\): give each"):
        flags._check_devices([0, 0, 0, 1, 1])


def test_bugs_keep_their_traceback(tmp_path):
    (tmp_path / "program.py").write_text(SMALL_PROGRAM)
    (tmp_path / "config.py").write_text(SMALL_CONFIG)
    arguments = ("--config.optimiser.learning_rate=2", "--config.bug")
    done = python("program.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "8 2.0\n"
    assert "Traceback" in done.stderr and "a bug" in done.stderr
