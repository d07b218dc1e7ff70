"""The evaluation protocol."""

import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.goldens import initialise
from helpers.machine import quick_to_compile, unused_port
from helpers.pictures import picture, save
from jax import Array

from lightbsr_jax import compilation
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import benchmark, cases, conventions, published
from lightbsr_jax.evaluation.images import find, lr_path, read_hr
from lightbsr_jax.evaluation.restorers import Bicubic, Spoilt
from lightbsr_jax.imaging import degradation, kernels, metrics, prior
from lightbsr_jax.imaging.files import ImageError
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec

SCALE = 4
METHODS = {"bicubic": Bicubic(SCALE)}
NOISY = cases.make(2, kernels=[(2, 1, 10)], noise_levels=[10])
SIGMAS = cases.make(1, sigmas=[1.2, 2.4])


@pytest.fixture(scope="module")
def model() -> Model:
    """A small student whose blocks all have a say."""
    network = LightBSR(SCALE, groups=1, blocks=1)
    variables = initialise(network, jax.random.key(0))
    variables = jax.tree.map(lambda x: np.where(np.abs(x) < 1e-5, 0.3, x), variables)
    return Model(
        ModelSpec.of_network(network, "student", 1),
        variables,
        np.zeros((441, 15), np.float32),
    )


def test_scores_are_those_of_one_image_at_a_time() -> None:
    """Against the protocol written down plainly; the crop, the noise and the order."""
    images = [("a", picture(1, 26, 31)), ("b", picture(2)), ("c", picture(3))]
    seen = {}

    def keep(restored: benchmark.Restored) -> None:
        seen[restored.image, restored.case] = restored

    tested = NOISY + SIGMAS
    scores = benchmark.evaluate(METHODS, images, tested, scale=SCALE, on_restored=keep)
    assert [(s.method, s.image, s.case) for s in scores] == [
        ("bicubic", name, case.label) for name, _ in images for case in tested
    ]
    for score in scores[1:3] + scores[4:6]:
        restored = seen[score.image, score.case]
        hr = dict(images)[score.image][:24, :28]
        np.testing.assert_array_equal(restored.hr, hr)
        case = next(case for case in tested if case.label == score.case)
        lr = degradation.synthesise(hr[None], case.degradation, None, scale=SCALE)
        assert np.abs(255 * np.asarray(lr[0]) - restored.lr).max() <= 1
        sr = Bicubic(SCALE).restore(restored.lr[None] / np.float32(255))
        sr = np.clip(np.rint(sr), 0, 255)
        np.testing.assert_array_equal(restored.sr["bicubic"], sr[0])
        assert list(restored.images) == ["LR", "bicubic", "HR"]
        psnr = metrics.psnr_y(sr, hr[None], border=SCALE)[0]
        assert score.psnr == pytest.approx(psnr, abs=1e-9)
        ssim = metrics.ssim_y(sr, hr[None], border=SCALE)[0]
        assert score.ssim == pytest.approx(ssim, abs=1e-12)
        assert restored.scores == {"bicubic": score}


@pytest.mark.parametrize("size", [(24, 28), (132, 140)])
def test_nothing_depends_on_batch_order_or_devices(
    model: Model, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """Scores and pixels of a network are the same to the last bit.

    Of images with upscalers of several convolutions and of one.
    """
    devices = jax.local_devices()
    assert len(devices) == 4
    images = [(str(seed), picture(seed, *size)) for seed in range(5)]
    tested = NOISY + SIGMAS[:1]
    methods = {**METHODS, "student": model}

    def measure(count: int, batch_size: int, **options) -> tuple[dict, dict]:
        monkeypatch.setattr(jax, "local_devices", lambda: devices[:count])
        pixels = {}
        scores = benchmark.evaluate(
            methods,
            options.get("images", images),
            options.get("tested", tested),
            scale=SCALE,
            batch_size=batch_size,
            on_restored=lambda r: pixels.update({(r.image, r.case): r.images}),
        )
        return {score[:4]: score[4:] for score in scores}, pixels

    scores, pixels = measure(1, 1)
    assert len(scores) == 2 * 5 * 2
    for others in (
        measure(1, 4),
        measure(2, 3),
        measure(4, 8, images=images[::-1], tested=tested[::-1]),
    ):
        assert others[0] == scores
        for place, versions in pixels.items():
            for name, image in versions.items():
                np.testing.assert_array_equal(others[1][place][name], image)


HOST = """
import sys
import jax
jax.distributed.initialize("localhost:{port}", 2, int(sys.argv[1]))
from helpers.pictures import picture
from lightbsr_jax.evaluation import benchmark, cases
from lightbsr_jax.evaluation.restorers import Bicubic
seen = []
images = [(str(seed), picture(seed)) for seed in range(3)]
noisy = cases.make(2, kernels=[(2, 1, 10)], noise_levels=[10])
scores = benchmark.evaluate(
    {{"bicubic": Bicubic(4)}}, images, noisy, scale=4, share=True,
    on_restored=lambda restored: seen.append(restored.image),
)
print(seen, [(score.image, score.psnr.hex()) for score in scores])
"""


@pytest.mark.multiprocess
def test_hosts_share_the_work() -> None:
    """Two processes measure every second image each, and both know all scores."""
    program = HOST.format(port=unused_port())
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(index)],
            stdout=subprocess.PIPE,
            env={
                "PYTHONPATH": ":".join(sys.path),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": quick_to_compile(),  # as here, for the same bits
            },
            text=True,
        )
        for index in range(2)
    ]
    printed = [host.communicate(timeout=120)[0].splitlines()[-1] for host in hosts]
    images = [(str(seed), picture(seed)) for seed in range(3)]
    scores = benchmark.evaluate(METHODS, images, NOISY, scale=SCALE)
    everything = [(score.image, score.psnr.hex()) for score in scores]
    assert printed == [f"['0', '2'] {everything}", f"['1'] {everything}"]


def test_noise_has_its_level_and_depends_on_the_seed() -> None:
    # A grey plane survives any blur, so that what is left of it is the noise.
    grey = np.full((64, 64, 3), 128, np.uint8)
    other = np.full((64, 64, 3), 127, np.uint8)
    pixels = []
    for seed in (0, 0, 1):
        benchmark.evaluate(
            METHODS,
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constant:
    """Restores everything to one value."""

    value: float

    def restore(self, lr: Array, *_: object) -> Array:
        batch, height, width, _ = lr.shape
        return jnp.full((batch, 4 * height, 4 * width, 3), self.value)


def test_a_size_is_one_compilation(monkeypatch) -> None:
    """Also with the last batch filled up, other weights and a noise-free case."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:2])
    images = [(str(i), np.full((32, 20, 3), 100, np.uint8)) for i in range(5)]
    progress = []

    def measure(value: float) -> list[benchmark.Score]:
        return benchmark.evaluate(
            {"constant": Constant(value)},
            images,
            NOISY + SIGMAS[:1],
            scale=SCALE,
            batch_size=2,
            on_progress=lambda *counts: progress.append(counts),
        )

    compilation.inference_jit(lambda: 0)()  # what XLA can do is tried out once
    with compilation.counted() as first:
        scores = measure(128.4)
    with compilation.counted() as second:
        others = measure(130.4)
    assert (first.programs, second.programs) == (1, 0)
    assert progress[:3] == [(4, 10), (8, 10), (10, 10)]
    # 128.4 is rounded to 128, 28 from HR, on luma with the weights' sum.
    error = 28 * (65.738 + 129.057 + 25.064) / 256
    assert scores[9].psnr == pytest.approx(20 * math.log10(255 / error), abs=1e-9)
    assert others[0].psnr < scores[0].psnr


def test_given_images_score_as_those_that_were_made(tmp_path) -> None:
    images = [("a.jpg", picture(1)), ("sub/b.png", picture(2, 20, 24))]
    tested = NOISY + SIGMAS[:1]

    def dump(restored: benchmark.Restored) -> None:
        case = next(case for case in tested if case.label == restored.case)
        path = lr_path(tmp_path, restored.benchmark, restored.image, case)
        save(path, restored.lr)

    def measure(tested: list[cases.Case], **options) -> list[benchmark.Score]:
        return benchmark.evaluate(METHODS, images, tested, scale=SCALE, **options)

    made = measure(tested, on_restored=dump)
    found = sorted(
        path.relative_to(tmp_path / "images") for path in tmp_path.rglob("*.png")
    )
    assert [path.as_posix() for path in found] == [
        "2-1-10-noise-10/a.png",
        "2-1-10-noise-10/sub/b.png",
        "sigma-1.2/a.png",
        "sigma-1.2/sub/b.png",
    ]
    assert measure(tested, lr_folder=tmp_path) == made

    # Restorers get HR images, too: KDSR's teacher sees them.
    seen: list[bool] = []

    class Privileged(Bicubic):
        def restore(self, lr: Any, degradation: Any = None, hr: Any = None) -> Any:
            seen.append(hr is not None)
            return super().restore(lr)

    tree = jax.tree_util.register_static(Privileged)
    benchmark.evaluate(
        {"bicubic": tree(SCALE)}, images, tested, scale=SCALE, lr_folder=tmp_path
    )
    assert seen and all(seen)

    # LR images of unknown degradation lie without a case's folder.
    given = cases.make(None)
    with pytest.raises(ValueError, match="--lr-dir"):
        measure(given)
    with pytest.raises(
        FileNotFoundError, match="no low-resolution image .*images.a.png"
    ):
        measure(given, lr_folder=tmp_path)
    for name, seed in (("a.png", 1), ("sub/b.png", 2)):
        save(tmp_path / "images" / name, picture(seed, 6, 7))
    with pytest.raises(ValueError, match="b.png is 7x6 .* 24x20, needs 6x5 at"):
        measure(given, lr_folder=tmp_path)


def test_spoilt_teacher() -> None:
    """M4 and M5 are teachers, who see the prior too."""
    network = LightBSR(groups=1, blocks=1)
    variables = initialise(network, jax.random.key(0), prior_channels=15)
    teacher = Model(
        ModelSpec.of_network(network, "teacher", 1), variables, prior.make_basis(0)
    )
    known = degradation.Degradation(kernels.isotropic(jnp.ones(2)), jnp.zeros(2))
    lr = jnp.zeros((2, 8, 12, 3))
    sr = jax.eval_shape(Spoilt(teacher).restore, lr, known)
    assert sr.shape == (2, 32, 48, 3)


def test_spoilt_idr(model) -> None:
    """R_c and R_s are numbers of U(0, 1), whatever the image."""
    lr = jnp.asarray([picture(1, 8, 12), picture(2, 8, 12)]) / 255
    seen = []

    def note(call: Callable, arguments: tuple, options: dict, context: object) -> Array:
        if context.method_name != "upscale":
            return call(*arguments, **options)
        seen.extend(arguments[1:])
        return lr

    with nn.intercept_methods(note):
        sr = Spoilt(model).restore(lr)
    np.testing.assert_array_equal(sr, 255 * lr)
    channel, spatial = map(np.asarray, seen)
    assert (channel.shape, spatial.shape) == ((2, 48), (2, 8, 12, 8))
    for idr in (channel, spatial):
        np.testing.assert_array_equal(idr[0], idr[1])
        assert idr.min() >= 0 and idr.max() < 1
        assert idr.mean() == pytest.approx(0.5, abs=0.1)
        assert idr.std() == pytest.approx(1 / math.sqrt(12), abs=0.05)


def test_names_of_benchmarks_and_images(tmp_path, monkeypatch) -> None:
    save(tmp_path / "Set5" / "HR" / "sub" / "b.png", picture(1))
    save(tmp_path / "Set5" / "HR" / "a.PNG", picture(1))
    save(tmp_path / "Set5" / "LR" / "a.png", picture(1, 6, 7))
    save(tmp_path / "plain" / "c.png", picture(1))
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    save(tmp_path / "single.png", picture(1))
    monkeypatch.chdir(tmp_path / "plain")

    def names(*items) -> list[tuple[str, str]]:
        return [(image.benchmark, image.name) for image in find(items)]

    set5 = [("Set5", "a.PNG"), ("Set5", "sub/b.png")]
    assert names("../Set5") == names(tmp_path / "Set5" / "HR") == set5
    assert names(".", "../Set5", "../link") == [
        ("plain", "c.png"),
        *set5,
        ("link", "c.png"),
    ]
    for name in ("some.txt", "others.TXT"):
        Path(tmp_path, name).write_text("plain/c.png")
    listed = [("some", "plain/c.png"), ("others", "plain/c.png")]
    assert names("../some.txt", "../others.TXT") == listed
    items = ["../single.png", ("d", picture(1, 24, 24)), ("e", picture(1))]
    assert names(*items) == [("images", n) for n in ("single.png", "d", "e")]
    # In the order given, though the first and the last share a size and a batch.
    scores = benchmark.evaluate(METHODS, items, SIGMAS[:1], scale=SCALE)
    assert [score.image for score in scores] == ["single.png", "d", "e"]


def test_grey_and_transparent_images(tmp_path) -> None:
    """Grey is repeated, transparency composited on white: both are measured."""
    rgb = picture(1)
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    alpha[:12, :, 3] = 0
    white = rgb.copy()
    white[:12] = 255
    save(tmp_path / "grey.png", rgb[..., 0])
    save(tmp_path / "alpha.png", alpha)
    seen = {}
    benchmark.evaluate(
        METHODS,
        [tmp_path],
        SIGMAS[:1],
        scale=SCALE,
        on_restored=lambda restored: seen.update({restored.image: restored.hr}),
    )
    np.testing.assert_array_equal(seen["grey.png"], rgb[..., :1].repeat(3, axis=-1))
    np.testing.assert_array_equal(seen["alpha.png"], white)


def test_errors(tmp_path) -> None:
    def evaluate(*items, tested=SIGMAS, scale=SCALE, **options) -> None:
        benchmark.evaluate(METHODS, items, tested, scale=scale, **options)

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
    with pytest.raises(ValueError, match=r"bicubic restored \(1, 12, 14, 3\) to"):
        evaluate(("a", picture(1)), scale=2)
    (tmp_path / "good" / "list.txt").write_text("Set5/a.png\n./Set5/a.png\n")
    with pytest.raises(UserError, match=r"list\.txt names Set5/a\.png twice: remove"):
        evaluate(tmp_path / "good" / "list.txt")
    save(tmp_path / "images" / "a.png", picture(1))
    with pytest.raises(UserError, match="single images are both called images"):
        evaluate(good / "a.png", tmp_path / "images")
    with pytest.raises(ValueError, match="nothing to measure"):
        evaluate()
    with pytest.raises(ValueError, match="no degradation"):
        evaluate(good, tested=[])
    with pytest.raises(ValueError, match="batch_size 0"):
        evaluate(good, batch_size=0)


def test_smallest_image_that_is_accepted_can_be_scored() -> None:
    (score,) = benchmark.evaluate(
        METHODS, [("small", picture(1, 20, 20))], SIGMAS[:1], scale=SCALE
    )
    assert math.isfinite(score.psnr) and math.isfinite(score.ssim)


def test_images_that_some_measure_cannot_score_are_named_first(tmp_path: Path) -> None:
    """For LPIPS, and of an HR image that is cropped to its LR image."""
    small = list(enumerate(find([("small", picture(1, 20, 40))])))
    assert benchmark.Beside().least == 0
    lpips: Any = True
    least = benchmark.Beside(lpips=lpips).least
    with pytest.raises(UserError, match="small of images is 40x20 .*at least 32"):
        benchmark._Reader(SCALE, None, SCALE, least).plan(small, SIGMAS)
    save(tmp_path / "images" / "small.png", picture(1, 4, 9))
    given = cases.make(None)
    with pytest.raises(UserError, match="small of images is 36x16 .*at least 20"):
        benchmark._Reader(SCALE, tmp_path, SCALE).plan(small, given)


def test_bicubic_agrees_with_the_paper(benchmark_folder) -> None:
    scores = benchmark.evaluate(
        METHODS, [benchmark_folder / "Set5"], cases.make(1), scale=SCALE
    )
    paper = published.rows("Set5", "")[0]
    assert paper.method == "Bicubic"
    for case, expected in paper.psnr.items():
        psnr = np.mean([score.psnr for score in scores if score.case == case])
        assert psnr == pytest.approx(expected, abs=0.006), case


def test_few_images_are_in_memory(tmp_path: Path, monkeypatch) -> None:
    """Each file is read twice, however many cases it is measured in."""
    for seed in range(12):
        save(tmp_path / "many" / f"{seed:02}.png", picture(seed))
    alive = []

    def read(*arguments: Any, **options: Any) -> np.ndarray:
        hr = read_hr(*arguments, **options).copy()
        alive.append(weakref.ref(hr))
        return hr

    monkeypatch.setattr(benchmark, "read_hr", read)
    reader = benchmark._Reader(SCALE, None, SCALE)
    images = list(enumerate(find([tmp_path / "many"])))
    planned = reader.plan(images, SIGMAS)
    assert [job.place for job in planned] == [(i, c) for i in range(12) for c in (0, 1)]
    assert len(alive) == 12 and not any(ref() is not None for ref in alive)
    for number, job in enumerate(planned):
        assert job.shape == (24, 28, 3)
        np.testing.assert_array_equal(reader.read(job).hr, picture(number // 2))
        assert sum(ref() is not None for ref in alive) == 1
    assert len(alive) == 24

    save(tmp_path / "many" / "00.png", picture(0, 40, 40))
    with pytest.raises(UserError, match="the size of 00.png of many has changed"):
        reader.read(planned[0])


@pytest.mark.parametrize(
    ("channels", "border"), [("rgb", 7), ("y", 3), ("y", 4), ("y", None)]
)
def test_scores_by_other_conventions(channels: str, border: int | None) -> None:
    """As `lightbsr psnr` has them; by default the paper's."""
    hr, sr = picture(1, 48, 52), picture(2, 48, 52)
    image = benchmark.TestImage("images", "a", 0, hr)
    job = benchmark._Job((0, 0), image, SIGMAS[0], hr, None)
    measures = benchmark.Measures(channels, border)
    score = partial(benchmark._score, scale=SCALE, beside=benchmark.Beside())
    _, restored = score(job, hr[::4, ::4], {"x": sr}, measures=measures)
    cut = SCALE if border is None else border
    assert measures.are_the_papers(SCALE) == (channels == "y" and cut == SCALE)
    colour = "RGB" if channels == "rgb" else conventions._PAPER
    expected = conventions.psnr(sr, hr, conventions.COLOURS[colour], border=cut)
    assert restored.scores["x"].psnr == pytest.approx(expected, abs=1e-9)
    colour = "RGB" if channels == "rgb" else conventions._PAPER_SSIM
    expected = conventions.ssim(sr, hr, conventions.SSIM_COLOURS[colour], border=cut)
    assert restored.scores["x"].ssim == pytest.approx(expected, abs=1e-9)
    told = benchmark.convention(SCALE, measures=measures)
    assert f"border of {cut} pixels" in told and ("RGB" in told) == (channels == "rgb")
