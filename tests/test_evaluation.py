"""The evaluation protocol, its report and its command line."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.benchmark import get_config
from lightbsr_jax.evaluation import benchmark, pictures, published, report, run
from lightbsr_jax.evaluation.benchmark import Score
from lightbsr_jax.imaging import degradation, metrics
from lightbsr_jax.imaging.files import ImageError

ROOT = Path(__file__).resolve().parents[1]
SCALE = 4
NOISY = benchmark.cases(2, kernel_parameters=[(2, 1, 10)], noise_levels=[10])
SIGMAS = benchmark.cases(1, sigmas=[1.2, 2.4])


def picture(seed: int, height: int = 24, width: int = 28) -> np.ndarray:
    """A smooth random image, so that PSNR is that of a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


# --- cases


def test_cases_are_the_papers():
    for preset, labels in (
        ("setting1", ["sigma 1.2", "sigma 2.4", "sigma 3.6"]),
        (
            "setting2",
            [
                published.anisotropic_label(kernel, noise)
                for noise in published.NOISE_LEVELS
                for kernel in published.KERNELS
            ],
        ),
    ):
        config = get_config(preset)
        cases = benchmark.cases(
            config.setting,
            sigmas=config.sigmas,
            kernel_parameters=config.kernels,
            noise_levels=config.noise_levels,
        )
        assert [case.label for case in cases] == labels
        defaults = benchmark.cases(config.setting)
        assert [case.label for case in defaults] == labels
    assert get_config("table3").benchmarks == published.BENCHMARKS


def test_kernel_of_a_case_is_in_degrees():
    (case,) = benchmark.cases(2, kernel_parameters=[(3.5, 1.5, 30)], noise_levels=[5.0])
    assert case.label == "(3.5, 1.5, 30) noise 5"
    angle = math.radians(30)
    rotation = np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    inverse = np.linalg.inv(rotation @ np.diag([3.5**2, 1.5**2]) @ rotation.T)
    offsets = np.arange(-10, 11)
    kernel = np.array(
        [
            [math.exp(-0.5 * np.array([x, y]) @ inverse @ [x, y]) for x in offsets]
            for y in offsets
        ]
    )
    np.testing.assert_allclose(
        case.degradation.kernel[0], kernel / kernel.sum(), atol=1e-7
    )
    assert case.degradation.noise_level.tolist() == [5.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": 1, "sigmas": [0.0]}, "above 0"),
        ({"setting": 2, "kernel_parameters": (2, 1, 10)}, "kernel 2: expected"),
        ({"setting": 2, "kernel_parameters": [(2, 0, 1)]}, "above 0"),
        ({"setting": 2, "noise_levels": [-1.0]}, "negative"),
        ({"setting": 3}, "setting 3"),
    ],
)
def test_wrong_cases(options, message):
    with pytest.raises(ValueError, match=message):
        benchmark.cases(**options)


# --- evaluate


def test_scores_are_those_of_one_image_at_a_time():
    """Against the protocol written down plainly; the crop, the noise and the order."""
    images = [("a", picture(1, 26, 31)), ("b", picture(2)), ("c", picture(3))]
    seen = {}

    def keep(restored):
        seen[restored.score.image, restored.score.case] = restored

    cases = NOISY + SIGMAS
    scores = benchmark.evaluate(
        benchmark.bicubic(SCALE), images, cases, scale=SCALE, on_restored=keep
    )
    assert [(s.image, s.case) for s in scores] == [
        (name, case.label) for name, _ in images for case in cases
    ]
    for score in scores[1:3] + scores[4:6]:
        restored = seen[score.image, score.case]
        hr = dict(images)[score.image][:24, :28]
        np.testing.assert_array_equal(restored.hr, hr)
        case = next(case for case in cases if case.label == score.case)
        lr = degradation.synthesise(hr[None], case.degradation, None, scale=SCALE)
        assert np.abs(255 * np.asarray(lr[0]) - restored.lr).max() <= 1
        sr = benchmark.bicubic(SCALE)(restored.lr[None] / np.float32(255))
        np.testing.assert_array_equal(restored.sr, np.clip(np.rint(sr[0]), 0, 255))
        sr = restored.sr[None]
        psnr = metrics.psnr_y(sr, hr[None], border=SCALE)[0]
        assert score.psnr == pytest.approx(psnr, abs=1e-9)
        ssim = metrics.ssim_y(sr, hr[None], border=SCALE)[0]
        assert score.ssim == pytest.approx(ssim, abs=1e-12)

    # Nothing depends on the batch, its order or its company.
    alone = benchmark.evaluate(
        benchmark.bicubic(SCALE),
        [("other name", picture(3))],
        cases[::-1],
        scale=SCALE,
        batch_size=1,
    )
    for score, expected in zip(alone[::-1], scores[6:], strict=True):
        assert score.case == expected.case
        assert score[3:] == pytest.approx(expected[3:], abs=1e-12)


def test_noise_has_its_level_and_depends_on_the_seed():
    # A grey plane survives any blur, so that what is left of it is the noise.
    grey = np.full((64, 64, 3), 128, np.uint8)
    other = np.full((64, 64, 3), 127, np.uint8)
    pixels = []
    for seed in (0, 0, 1):
        benchmark.evaluate(
            benchmark.bicubic(SCALE),
            [("grey", grey), ("other", other)],
            NOISY,
            scale=SCALE,
            seed=seed,
            on_restored=lambda restored: pixels.append(restored.lr.astype(float)),
        )
    first, company, again, _, other_seed, _ = pixels
    assert first.std() == pytest.approx(10, rel=0.1)
    assert first.mean() == pytest.approx(128, abs=1.5)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other_seed).mean() > 5
    assert np.abs(first - company).mean() > 5


def test_batches_of_one_size_share_a_shape():
    """Five images in batches of 2 are one compilation, the filling is not scored."""
    shapes = []

    def restore(lr, degradation):
        assert degradation.kernel.shape[0] == degradation.noise_level.shape[0]
        shapes.append(lr.shape)
        return jnp.full((lr.shape[0], 24, 28, 3), 128.4)

    progress = []
    images = [(str(i), np.full((24, 28, 3), 100, np.uint8)) for i in range(5)]
    scores = benchmark.evaluate(
        restore,
        images,
        SIGMAS[:1],
        scale=SCALE,
        batch_size=2,
        on_progress=lambda *counts: progress.append(counts),
    )
    assert shapes == [(2, 6, 7, 3)] * 3
    assert progress == [(2, 5), (4, 5), (5, 5)]
    assert len(scores) == 5
    # 128.4 is rounded to 128, 28 from HR, on luma with the weights' sum.
    error = 28 * (65.738 + 129.057 + 25.064) / 256
    assert scores[4].psnr == pytest.approx(20 * math.log10(255 / error), abs=1e-9)


def test_names_of_benchmarks_and_images(tmp_path, monkeypatch):
    save(tmp_path / "Set5" / "HR" / "sub" / "b.png", picture(1))
    save(tmp_path / "Set5" / "HR" / "a.PNG", picture(1))
    save(tmp_path / "Set5" / "LR" / "a.png", picture(1, 6, 7))
    save(tmp_path / "plain" / "c.png", picture(1))
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    save(tmp_path / "single.png", picture(1))
    monkeypatch.chdir(tmp_path / "plain")

    def names(*items):
        scores = benchmark.evaluate(
            lambda lr, _: jnp.zeros((lr.shape[0], 24, 4 * lr.shape[2], 3)),
            items,
            SIGMAS[:1],
            scale=SCALE,
        )
        return [(score.benchmark, score.image) for score in scores]

    set5 = [("Set5", "a.PNG"), ("Set5", "sub/b.png")]
    assert names("../Set5") == names(tmp_path / "Set5" / "HR") == set5
    assert names(".", "../Set5", "../link") == [
        ("plain", "c.png"),
        *set5,
        ("link", "c.png"),
    ]
    # In the order given, though the first and the last share a size and a batch.
    assert names("../single.png", ("d", picture(1, 24, 24)), ("e", picture(1))) == [
        ("images", "single.png"),
        ("images", "d"),
        ("images", "e"),
    ]


def test_errors_of_evaluate(tmp_path):
    def evaluate(*items, cases=SIGMAS, scale=SCALE, **options):
        return benchmark.evaluate(
            benchmark.bicubic(4), items, cases, scale=scale, **options
        )

    save(tmp_path / "good" / "Set5" / "a.png", picture(1))
    save(tmp_path / "bad" / "Set5" / "a.png", picture(1))
    data = (tmp_path / "bad" / "Set5" / "a.png").read_bytes()
    (tmp_path / "bad" / "Set5" / "broken.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty").mkdir()
    good = tmp_path / "good" / "Set5"
    with pytest.raises(ImageError, match="broken.png"):
        evaluate(tmp_path / "bad" / "Set5")
    with pytest.raises(FileNotFoundError, match="missing"):
        evaluate(good, tmp_path / "missing")
    with pytest.raises(ValueError, match="empty holds no image"):
        evaluate(tmp_path / "empty")
    with pytest.raises(ValueError, match="tiny of images is 40x19 .*20 pixels"):
        evaluate(good, ("tiny", picture(1, 19, 40)))
    with pytest.raises(ValueError, match="both called Set5: rename"):
        evaluate(good, tmp_path / "bad" / "Set5")
    with pytest.raises(ValueError, match="grey is uint8"):
        evaluate(("grey", picture(1)[..., 0]))
    with pytest.raises(ValueError, match=r"to \(2, 44, 52, 3\), but HR"):
        evaluate(("a", picture(1, 22, 26)), scale=2)
    with pytest.raises(ValueError, match="nothing to measure"):
        evaluate()
    with pytest.raises(ValueError, match="no degradation"):
        evaluate(good, cases=[])
    with pytest.raises(ValueError, match="batch_size 0"):
        evaluate(good, batch_size=0)


def test_smallest_image_that_is_accepted_can_be_scored():
    (score,) = benchmark.evaluate(
        benchmark.bicubic(SCALE),
        [("small", picture(1, 20, 20))],
        SIGMAS[:1],
        scale=SCALE,
    )
    assert math.isfinite(score.psnr) and math.isfinite(score.ssim)


def test_bicubic_agrees_with_the_paper(benchmark_folder):
    scores = benchmark.evaluate(
        benchmark.bicubic(SCALE),
        [benchmark_folder / "Set5"],
        benchmark.cases(1),
        scale=SCALE,
    )
    for (name, case), (psnr, _) in report.means(scores).items():
        paper = published.psnr("Bicubic", name, case)
        assert psnr == pytest.approx(paper, abs=0.006), case


# --- report


METHODS = {
    "LightBSR": [
        Score("Set5", "a.png", "sigma 1.2", 30.0, 0.90),
        Score("Set5", "a.png", "sigma 2.4", 28.0, 0.80),
        Score("Set5", "b,c.png", "sigma 1.2", 31.0, 0.91),
        Score("Set5", "b,c.png", "sigma 2.4", 27.0, 0.82),
        Score("mine", "d.png", "sigma 1.2", math.inf, 1.0),
    ],
    "bicubic": [
        Score("Set5", "a.png", "sigma 1.2", 20.0, 0.5),
        Score("Set5", "a.png", "sigma 2.4", 21.0, 0.5),
        Score("Set5", "b,c.png", "sigma 1.2", 21.0, 0.5),
        Score("Set5", "b,c.png", "sigma 2.4", 22.0, 0.5),
        Score("mine", "d.png", "sigma 1.2", 23.0, 0.5),
    ],
}


def cells(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
    ]


def test_markdown_table():
    header, _, *rows = cells(report.markdown_table(METHODS, scale=4))
    assert header == [
        "benchmark",
        "degradation",
        "LightBSR",
        "bicubic",
        "Bicubic (paper)",
        "LightBSR (paper)",
    ]
    assert rows == [
        ["Set5", "sigma 1.2", "30.50 / 0.9050", "20.50 / 0.5000", "27.69", "32.47"],
        ["Set5", "sigma 2.4", "27.50 / 0.8100", "21.50 / 0.5000", "25.99", "32.17"],
        ["Set5", "mean", "29.00 / 0.8575", "21.00 / 0.5000", "26.84", "32.32"],
        ["mine", "sigma 1.2", "inf / 1.0000", "23.00 / 0.5000", "", ""],
    ]
    header, *_ = cells(report.markdown_table(METHODS, scale=2))
    assert header[2:] == ["LightBSR", "bicubic"]


def test_report_on_disk(tmp_path):
    folder = tmp_path / "new" / "folder"
    table = report.write(folder, METHODS, scale=4, about={"config": {"seed": 3}})
    assert sorted(path.name for path in folder.iterdir()) == [
        "images.csv",
        "results.json",
        "table.md",
    ]
    assert (folder / "table.md").read_text().startswith(table)

    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    text = (folder / "results.json").read_text()
    results = json.loads(text, parse_constant=no_constants)
    assert results["scale"] == 4 and results["config"] == {"seed": 3}
    assert "65.738" in results["convention"] and results["versions"]["jax"]
    assert results["means"][0] == {
        "method": "LightBSR",
        "benchmark": "Set5",
        "case": "sigma 1.2",
        "psnr": 30.5,
        "ssim": pytest.approx(0.905),
    }
    assert results["means"][2]["psnr"] == "inf"

    with (folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert rows[2]["image"] == "b,c.png" and float(rows[2]["psnr"]) == 31.0


# --- pictures


def test_comparison_shows_the_four_images():
    hr = picture(1, 200, 176)
    lr = picture(2, 50, 44)
    labels = ("LR", "bicubic 20.00 dB", "LightBSR 30.00 dB", "HR")
    panel = pictures.comparison(lr, hr // 2, hr // 3, hr, labels=labels)
    assert panel.dtype == np.uint8
    caption = panel.shape[0] - 200
    assert panel.shape[1] == 4 * 176 + 3 * 4 and 16 <= caption <= 80
    columns = [panel[caption:, i * 180 : i * 180 + 176] for i in range(4)]
    enlarged = np.kron(lr, np.ones((4, 4, 1), np.uint8))
    for column, expected in zip(columns, (enlarged, hr // 2, hr // 3, hr), strict=True):
        np.testing.assert_array_equal(column, expected)
    for i in range(4):
        ink = (panel[:caption, i * 180 : i * 180 + 176] < 128).any(-1)
        assert ink.any() and not ink[:, [0, -1]].any()  # there, and not cut off


def test_comparison_crops_the_same_region():
    hr = np.zeros((200, 240, 3), np.uint8)
    lr = np.zeros((50, 60, 3), np.uint8)
    hr[100:104, 120:124] = lr[25, 30] = 255
    panel = pictures.comparison(lr, hr, None, hr, labels=("a", "b", "c"), crop=162)
    assert panel.shape[1] == 3 * 162 + 2 * 4
    bodies = [panel[-162:, i * 166 : i * 166 + 162] for i in range(3)]
    for body in bodies:
        np.testing.assert_array_equal(body, bodies[2])
    assert (bodies[0] == 255).sum() == 4 * 4 * 3
    top, left = 100 - (200 - 162) // 2, 120 - (240 - 162) // 2
    assert (bodies[0][top : top + 4, left : left + 4] == 255).all()


def test_comparison_enlarges_small_images_and_checks_its_arguments():
    hr, lr = picture(1), picture(2, 6, 7)
    panel = pictures.comparison(lr, hr, hr, hr, labels=("LR", "bicubic", "SR", "HR"))
    assert panel.shape[1] == 4 * 6 * 28 + 3 * 4
    with pytest.raises(ValueError, match="2 labels for 4"):
        pictures.comparison(lr, hr, hr, hr, labels=("a", "b"))
    with pytest.raises(ValueError, match="'c' is"):
        pictures.comparison(lr, hr, hr[:8], hr, labels=("a", "b", "c", "d"))


# --- run and the command line


@pytest.fixture
def folder(tmp_path) -> Path:
    save(tmp_path / "data" / "Set5" / "HR" / "a.png", picture(1))
    save(tmp_path / "data" / "Set5" / "HR" / "b.png", picture(2))
    return tmp_path / "data"


def student(**changes) -> SimpleNamespace:
    """What run() uses of a Model; it restores a little better than bicubic."""
    model = {
        "role": "student",
        "setting": 1,
        "scale": 4,
        "step": 7,
        "restore": lambda lr, _: benchmark.bicubic(4)(lr) + 0.25,
    }
    return SimpleNamespace(**model | changes)


def test_run_measures_a_student_beside_bicubic(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run.Model, "load", lambda workdir: student())
    config = get_config("table3")
    with config.unlocked():
        config.root = str(folder)
        config.benchmarks = ("Set5",)
        config.sigmas = (1.2, 2.4)
    workdir = tmp_path / "student"
    table = run.run(
        config, method="lightbsr", workdir=str(workdir), folders=[], output=None
    )
    header, _, *rows = cells(table)
    assert header[2:4] == ["LightBSR", "bicubic"]
    assert [row[1] for row in rows] == ["sigma 1.2", "sigma 2.4", "mean"]
    output = workdir / "evaluation" / "setting1"
    results = json.loads((output / "results.json").read_text())
    assert results["model"] == {"workdir": str(workdir), "role": "student", "step": 7}
    assert results["config"]["sigmas"] == [1.2, 2.4]
    # One image a benchmark, each case.
    assert sorted(path.name for path in (output / "panels").iterdir()) == [
        "Set5-a-sigma-1.2.png",
        "Set5-a-sigma-2.4.png",
    ]


def test_run_checks_the_model_against_the_config(monkeypatch):
    def measure(config, workdir="w", **changes):
        monkeypatch.setattr(run.Model, "load", lambda _: student(**changes))
        return run.run(
            config, method="lightbsr", workdir=workdir, folders=[], output=None
        )

    with pytest.raises(ValueError, match="--config.setting=2"):
        measure(get_config("setting1"), setting=2)
    config = get_config("setting1")
    config.scale = 2
    with pytest.raises(ValueError, match="is for scale 4.*--config.scale is 2"):
        measure(config)
    with pytest.raises(ValueError, match="needs --workdir.*--method=bicubic"):
        measure(get_config("setting1"), workdir=None)
    with pytest.raises(ValueError, match="--benchmarks=FOLDER"):
        measure(get_config("setting1"))


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        timeout=120,
    )


def test_command_line(folder, tmp_path):
    """The program itself, from another folder than its own."""
    done = python(
        str(ROOT / "eval.py"),
        "--method=bicubic",
        "--config.sigmas=2.4",
        f"--benchmarks={folder / 'Set5'}",
        "--output=out",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert cells(done.stdout)[2][:2] == ["Set5", "sigma 2.4"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"table.md", "results.json", "images.csv", "panels"}


SMALL_PROGRAM = """
import sys
from lightbsr_jax import command_line
CONFIG = command_line.define_config("config.py")
def main():
    print(CONFIG.value.batch_size, CONFIG.value.optimiser.learning_rate)
    if CONFIG.value.bug:
        int("a bug")
    open("missing file")
command_line.run(main)
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


def test_bugs_keep_their_traceback(tmp_path):
    (tmp_path / "program.py").write_text(SMALL_PROGRAM)
    (tmp_path / "config.py").write_text(SMALL_CONFIG)
    arguments = ("--config.optimiser.learning_rate=2", "--config.bug")
    done = python("program.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "8 2.0\n"
    assert "Traceback" in done.stderr and "a bug" in done.stderr
