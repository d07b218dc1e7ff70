"""Upscaling in tiles against the network's own forward pass over the whole image."""

import errno
import os
from collections import Counter
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
import pytest
import skimage.data
from helpers.goldens import initialise
from PIL import Image

from lightbsr_jax import cli, target
from lightbsr_jax.commands import source, upscale
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import photographs, png
from lightbsr_jax.inference import folder, stages, tiles, upscaler
from lightbsr_jax.inference.explain import Known
from lightbsr_jax.inference.folder import Target
from lightbsr_jax.inference.tiles import LARGEST, SIDES, tile_sides
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.methods import torch_layers
from lightbsr_jax.methods.kdsr.network import KDSR
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models import packed, torch_files, torch_names
from lightbsr_jax.models.load import load_for_pictures
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks.operators import plain_ops
from lightbsr_jax.spec import ModelSpec

BASIS = np.zeros((441, 15), np.float32)


@pytest.fixture(scope="module")
def model() -> Model:
    """A random network in which every block matters."""
    network = LightBSR(2, groups=2, blocks=2)
    rng = np.random.default_rng(0)

    def lively(path: tuple, leaf: jax.Array) -> np.ndarray:
        names = [step.key for step in path]
        if names[-1] in ("layer_scale", "var"):
            return rng.uniform(0.5, 1, leaf.shape).astype(np.float32)
        pools = {"channel", "weight_hidden", "weight"} & set(names)
        return np.array(leaf) * (8 if pools else 1.2 if names[-1] == "kernel" else 1)

    variables = initialise(network, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(lively, variables)
    return Model(ModelSpec.of_network(network, "student", 1), variables, BASIS)


@pytest.fixture(scope="module")
def replicating() -> Model:
    """A network that repeats each pixel 2 x 2 times: what files hold is then known."""
    network = LightBSR(2, groups=1, blocks=1)
    variables = jax.tree.map(np.array, initialise(network, jax.random.key(0)))
    restorer = jax.tree.map(np.zeros_like, variables["params"]["restorer"])
    for c in range(3):
        restorer["head"]["kernel"][1, 1, c, c] = 1
        restorer["upscale_0"]["kernel"][1, 1, c, 4 * c : 4 * c + 4] = 1
        restorer["tail"]["kernel"][1, 1, c, c] = 1
    variables["params"]["restorer"] = restorer
    return Model(ModelSpec.of_network(network, "student", 1), variables, BASIS)


@pytest.fixture(scope="module")
def workdir(replicating: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replicating network's state dict."""
    path = tmp_path_factory.mktemp("weights") / "replicating.safetensors"
    tensors = torch_names.mean_shift() | torch_names.to_torch(
        replicating.variables, replicating.network, torch_layers.LONE
    )
    for name in torch_names.counters(replicating.network, torch_layers.LONE):
        tensors[name] = np.array(0, np.int64)
    torch_files.write(path, tensors)
    return path


def picture(height: int = 45, width: int = 70) -> np.ndarray:
    """Float32 [h, w, 3], with other statistics on the left than on the right."""
    rng = np.random.default_rng(1)
    noise = rng.uniform(-0.3, 0.3, (height, width, 3))
    ramp = np.linspace(0, 1, width)[:, None]
    return (0.5 + noise * ramp + 0.2 * ramp).clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def whole(model: Model) -> np.ndarray:
    return np.asarray(model.restore(picture()[None]))[0] / 255


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "LARGEST", 32)


@pytest.mark.parametrize(
    "devices, memory, storage, few",
    [(1, 10**10, "host", 64), (2, 10**10, "host", 1), (2, 1, "file", 64)],
)
def test_tiles_give_what_the_whole_image_gives(
    model: Model,
    whole: np.ndarray,
    small_tiles: None,
    devices: int,
    memory: int,
    storage: str,
    few: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "_FEW", few)
    devices = jax.devices()[:devices]
    upscale = Upscaler(model, memory=memory, devices=devices, border=0)
    assert upscale._plan((45, 70)) == (32, storage)
    np.testing.assert_allclose(upscale(picture()), whole, atol=2e-6)
    # The tolerance tells: a tile by itself has other means.
    alone = np.asarray(model.restore(picture()[None, :, :32]))[0] / 255
    assert abs(alone[:, :40] - whole[:, :40]).max() > 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_tiles_meet_the_border_anywhere(scale: int, small_tiles: None) -> None:
    """It ends tiles, begins them, and lies in the halo of tiles beside."""
    network = LightBSR(scale, groups=1, blocks=1)
    variables = initialise(network, jax.random.key(scale))
    several = Model(ModelSpec.of_network(network, "student", 1), variables, BASIS)

    @jax.jit
    def stepwise(lr: np.ndarray) -> jax.Array:
        with plain_ops():
            return network.apply(variables, lr[None]).sr[0]

    upscale = Upscaler(several, border=0)
    for size in ((64, 33), (1, 66), (34, 32)):
        image = picture(*size)
        np.testing.assert_allclose(upscale(image), stepwise(image), atol=2e-6)


@pytest.mark.parametrize(
    "rows, storage, expected",
    [(8, "host", "devices"), (9, "host", "host"), (8, "file", "file")],
)
def test_maps_of_few_tiles_are_not_copied(
    rows: int, storage: tiles.Storage, expected: str
) -> None:
    grid = tiles.Grid((32 * rows, 256), (32, 32), jax.devices()[:1], storage=storage)
    assert grid.storage == expected
    image = np.zeros((*grid.size, 3), np.float32)
    assert (grid.cut(image)._array is None) == (expected == "devices")


def test_maps_on_devices(
    model: Model,
    whole: np.ndarray,
    small_tiles: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on accelerators."""
    upscale = Upscaler(model, devices=jax.devices()[:2], border=0)
    monkeypatch.setattr(upscale, "_plan", lambda size: (32, "devices"))
    np.testing.assert_allclose(upscale(picture()), whole, atol=2e-6)


def test_estimate_is_that_of_the_whole_image(model: Model, small_tiles: None) -> None:
    estimated = Upscaler(model).estimate(picture())
    apply = model.network.apply
    idr = apply(model.variables, picture()[None], method="encode")
    channel, spatial = apply(model.variables, idr, (45, 70), method="convert")
    np.testing.assert_allclose(estimated.map, idr[0], atol=1e-6)
    np.testing.assert_allclose(estimated.mean, idr[0].mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(estimated.channel, channel[0], atol=1e-6)
    np.testing.assert_allclose(estimated.spatial, spatial[0], atol=1e-6)


def test_another_pictures_idr(model: Model, small_tiles: None) -> None:
    mean = np.linspace(-0.5, 0.5, 128, dtype=np.float32)
    idr = np.broadcast_to(mean, (1, 12, 18, 128))
    restored = model.network.apply(
        model.variables, picture()[None], idr, method="restore"
    )
    sr = Upscaler(model, border=0)(picture(), idr=mean)
    np.testing.assert_allclose(sr, restored.sr[0], atol=2e-6)


def test_self_ensemble_is_the_mean_over_flips_and_transpositions(
    model: Model, small_tiles: None
) -> None:
    image = picture(20, 20)
    results = []
    for turns in range(4):
        for flip in (False, True):
            turned = np.rot90(image, turns)
            turned = turned[:, ::-1] if flip else turned
            sr = np.asarray(model.restore(turned[None]))[0] / 255
            results.append(np.rot90(sr[:, ::-1] if flip else sr, -turns))
    sr = Upscaler(model, border=0)(image, self_ensemble=True)
    np.testing.assert_allclose(sr, np.mean(results, 0), atol=2e-6)


def test_the_border_is_mirrored_before_and_cut_after(
    model: Model, replicating: Model
) -> None:
    """Networks pad with zeros: a picture of 1 x 1 of grey 250 became 124."""
    image = picture(13, 9)
    extended = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="symmetric")
    beyond = 8 * model.scale
    whole = np.asarray(model.restore(extended[None]))[0] / 255
    whole = whole[beyond:-beyond, beyond:-beyond]
    np.testing.assert_allclose(Upscaler(model)(image), whole, atol=2e-6)
    ensemble = Upscaler(model)(image, self_ensemble=True)
    assert ensemble.shape == whole.shape
    for size in ((1, 1), (1, 40), (2, 3)):  # smaller than what is mirrored
        grey = np.full((*size, 3), 250, np.uint8)
        sr = Upscaler(replicating)(grey)
        scale = replicating.scale
        assert sr.shape == (scale * size[0], scale * size[1], 3)
        assert (sr == 250).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 3), (16, 16)])
def test_flat_pictures_stay_flat(size: tuple[int, int]) -> None:
    upscale = Upscaler.load("setting2")
    for colour in ((0, 0, 0), (255, 255, 255), (250, 250, 250), (220, 0, 0)):
        image = np.broadcast_to(np.uint8(colour), (*size, 3))
        assert abs(upscale(image).astype(int) - colour).max() <= 3


def test_out_of_memory_halves_the_tiles_and_goes_on(
    model: Model, whole: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upscaler, "LARGEST", 64)
    upscale = Upscaler(model, border=0)
    part = stages.part

    def fails_if_large(stage, network, rows, *arguments):
        if rows > 32:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return part(stage, network, rows, *arguments)

    monkeypatch.setattr(stages, "part", fails_if_large)
    np.testing.assert_allclose(upscale(picture()), whole, atol=2e-6)

    def fails(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(stages, "part", fails)
    with pytest.raises(UserError, match="70 x 45 pixels does not fit"):
        upscale(picture())


@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2"])  # either byte order
def test_integers_are_rounded_and_clipped(
    replicating: Model, small_tiles: None, dtype: str
) -> None:
    image = (picture() * np.iinfo(dtype).max).astype(dtype)
    image[0, :2] = [[0], [np.iinfo(dtype).max]]
    sr = Upscaler(replicating)(image)
    assert sr.dtype == image.dtype.newbyteorder("=")
    np.testing.assert_array_equal(sr, image.repeat(2, 0).repeat(2, 1))


def test_few_shapes_of_tiles_for_all_sizes() -> None:
    def tile(*size: int) -> tuple[int, int]:
        return tile_sides(size, LARGEST)

    assert tile(1, 1) == tile(7, 5) == (32, 32)
    assert tile(144, 272) == (160, 272)  # a single one
    assert tile(1, 4080) == (32, 272)
    assert tile(640, 4080) == (160, 272)  # 4 x 160 is less than 3 x 224
    assert {tile(size, size)[0] for size in range(1, 3000)} == set(SIDES)
    wasted = [
        -(-size // tile(size, size)[0]) * tile(size, size)[0] / size
        for size in range(256, 3000)
    ]
    assert max(wasted) < 1.25


def test_a_single_tile_has_no_halo(model: Model, whole: np.ndarray) -> None:
    """It extends beyond the image, where there are zeros."""
    assert tile_sides((45, 70), LARGEST) == (64, 128)
    upscale = Upscaler(model, border=0)
    np.testing.assert_allclose(upscale(picture()), whole, atol=2e-6)


@pytest.mark.parametrize("multiplies", [True, False])
def test_precision_is_chosen_by_the_processor(
    multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("it is about CPUs")
    monkeypatch.setattr(target, "multiplies_bfloat16", lambda: multiplies)
    model = load_for_pictures("photo")
    upscalers = {
        precision: Upscaler(model, precision=precision)
        for precision in ("float32", "bfloat16", "auto")
    }
    chosen = [upscale.precision for upscale in upscalers.values()]
    narrow = "bfloat16" if multiplies else "float32"
    assert chosen == ["float32", narrow, narrow]
    image = skimage.data.astronaut()[:40, 40:80].astype(np.float32) / 255
    exact, asked, own = (255 * upscale(image) for upscale in upscalers.values())
    np.testing.assert_array_equal(asked, own)
    assert (abs(asked - exact).max() > 1e-3) == multiplies
    assert abs(asked - exact).max() < 0.5
    checksums = {upscale.checksum() for upscale in upscalers.values()}
    assert len(checksums) == 1 + multiplies


def test_less_memory_means_smaller_tiles_and_a_file(model: Model) -> None:
    budgets = {10: (272, "host"), 9: (128, "host"), 3: (272, "file"), 1: (64, "file")}
    for gigabytes, plan in (budgets | {0: (32, "file")}).items():
        upscale = Upscaler(model, memory=gigabytes * 10**9)
        assert upscale._plan((3000, 4000)) == plan


def test_a_wider_network_takes_more_memory() -> None:
    """KDSR-L has 128 features: 2 x 2.8 GB for tiles of 272, where others take half."""
    network = KDSR(2, features=128, blocks=1, residual_blocks=1)
    wide = Model(ModelSpec.of_network(network, "student", 1), {}, BASIS)
    for memory, side in ((5_800_000_000, 272), (5_200_000_000, 128)):
        assert Upscaler(wide, memory=memory)._plan((3000, 4000)) == (side, "file")


def test_maps_of_a_low_picture_lie_on_few_devices() -> None:
    """A device has whole rows of tiles: 1 row, 2 rows, 9 rows of 272 pixels."""
    for height, share in ((100, 1), (300, 1 / 2), (9 * 272, 2 / 9)):
        assert upscaler._largest_share((height, 5000), 272, 8) == share


def test_mistakes_are_named(model: Model) -> None:
    upscale = Upscaler(model, border=0)
    with pytest.raises(UserError, match=r"float64 \(3, 3, 3\): expected"):
        upscale(np.zeros((3, 3, 3)))
    with pytest.raises(UserError, match="has no pixels"):
        upscale(np.zeros((0, 3, 3), np.uint8))
    for shape in ((64,), (1, 128), ()):
        with pytest.raises(UserError, match=r"an IDR of \[.*\] .*: expected \[128\]"):
            upscale(np.zeros((3, 3, 3), np.uint8), idr=np.zeros(shape))
    with pytest.raises(UserError, match="upscale with its student"):
        Upscaler(
            Model(
                ModelSpec.of_network(model.network, "teacher", 1),
                model.variables,
                BASIS,
            )
        )


@pytest.mark.parametrize(
    "scale, size, expected",
    [
        (None, None, (40, 60)),
        (1.5, None, (15, 22)),
        (None, "33x77", (77, 33)),
        (None, "30x", (20, 30)),
        (None, "x30", (30, 45)),
    ],
)
def test_target_sizes(scale: float, size: str, expected: tuple[int, int]) -> None:
    assert folder.parse_target(scale, size).of((10, 15), 4) == expected


@pytest.mark.parametrize(
    "scale, size", [(0, None), (None, "x"), (None, "0x4"), (None, "9" * 5000 + "x")]
)
def test_senseless_target_sizes(scale: float, size: str) -> None:
    with pytest.raises(UserError, match="expected"):
        folder.parse_target(scale, size)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_results_that_collide_are_refused(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    save(tmp_path / "a" / "x.png", image)
    save(tmp_path / "b" / "x.png", image)
    plan = {"suffix": "", "format": None}
    with pytest.raises(UserError, match="would both become"):
        folder.jobs([tmp_path / "a", tmp_path / "b"], tmp_path / "out", **plan)
    with pytest.raises(UserError, match="one of the pictures to upscale"):
        folder.jobs([tmp_path / "a"], tmp_path / "a", **plan)
    (job,) = folder.jobs([tmp_path / "a"], tmp_path / "a", suffix="-x2", format="webp")
    assert job.target == tmp_path / "a" / "x-x2.webp"
    (job,) = folder.jobs([tmp_path / "a" / "x.png"], tmp_path / "new.jpg", **plan)
    assert (job.target, job.format) == (tmp_path / "new.jpg", "JPEG")
    # Another name of the same file, as X.PNG is on a disk that ignores case.
    (tmp_path / "a" / "X.PNG").hardlink_to(tmp_path / "a" / "x.png")
    with pytest.raises(UserError, match=r"X\.PNG is one of the pictures to upscale"):
        folder.jobs([tmp_path / "a" / "x.png"], tmp_path / "a" / "X.PNG", **plan)


@pytest.mark.parametrize(
    "given, out, format, message",
    [
        ("a", "x.png", None, "a file cannot hold several"),
        ("a/x.png", "x.gif", None, r"ending in \.png \.jpg"),
        ("a/x.png", "x.webp", "png", r"ending in \.png$"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    tmp_path: Path, given: str, out: str, format: str, message: str
) -> None:
    save(tmp_path / "a" / "x.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UserError, match=message):
        folder.jobs([tmp_path / given], tmp_path / out, suffix="", format=format)


def test_results_among_the_pictures_are_not_upscaled_again(tmp_path: Path) -> None:
    for name in ("x.png", "large/x.png", "largest.png"):
        save(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
    planned = folder.jobs([tmp_path], tmp_path / "large", suffix="", format=None)
    assert [job.name for job in planned] == ["largest.png", "x.png"]


def test_in_place_a_run_goes_on_after_its_results(tmp_path: Path) -> None:
    for name in ("x.png", "x-x4.png", "x-x4.png-idr.png", "y.png"):
        save(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
    plan = {"suffix": "-x4", "format": None}
    with pytest.raises(UserError, match="the result of an earlier run"):
        folder.jobs([tmp_path], tmp_path, **plan)
    planned = folder.jobs([tmp_path], tmp_path, **plan, skip_existing=True)
    assert [job.name for job in planned] == ["x.png", "y.png"]
    with pytest.raises(UserError, match="one of the pictures"):
        folder.jobs([tmp_path], tmp_path, suffix="", format=None, skip_existing=True)


def test_a_folder_with_a_bad_file(
    workdir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    small_tiles: None,
) -> None:
    loaded = source.load(workdir)  # once, for the sake of time
    monkeypatch.setattr(source, "load", lambda path: loaded)
    image = np.random.default_rng(2).integers(256, size=(9, 12, 3), dtype=np.uint8)
    save(tmp_path / "in" / "ä b" / "c.png", image)
    (tmp_path / "in" / "text.png").write_text("no picture")
    (tmp_path / "in" / "old.XCF").write_text("skipped")
    (tmp_path / "in" / "link.png").symlink_to("nowhere")
    out = tmp_path / "out"
    command = ["upscale", str(tmp_path / "in"), "-o", str(out), f"--workdir={workdir}"]

    def run(*options: str) -> str:
        with pytest.raises(SystemExit) as leaving:
            cli.main([*command, *options])
        assert leaving.value.code == 1
        return "".join(capsys.readouterr())

    shown = run("--dry-run")
    assert "12x9 -> 24x18" in shown and "skipped 1 unsupported file (.xcf)" in shown
    assert not out.exists()
    shown = run()
    assert "text.png: not a readable" in shown
    assert "link.png: No such file" in shown
    expected = image.repeat(2, 0).repeat(2, 1)
    written = out / "ä b" / "c.png"
    np.testing.assert_array_equal(np.asarray(Image.open(written)), expected)
    assert [p.name for p in out.rglob("*") if p.is_file()] == ["c.png"]
    assert "c.png exists: --overwrite replaces it" in run()
    assert "1 skipped" in run("--skip-existing")
    assert "1 done, 2 failed" in run("--overwrite", "--scale=3")
    assert Image.open(written).size == (36, 27)


def test_a_plan_computes_nothing_and_a_missing_picture_is_named_at_once(
    workdir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unwanted(*given: object) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(Upscaler, "estimate", unwanted)
    save(tmp_path / "a.png", np.zeros((2, 3, 3), np.uint8))
    name, out = str(tmp_path / "a.png"), str(tmp_path / "out")
    command = ["upscale", name, "-o", out, f"--weights={workdir}"]
    cli.main([*command, f"--idr-from={name}", "--dry-run"])
    assert "to make: 3x2 -> 6x4" in capsys.readouterr().out
    monkeypatch.setattr(source, "load", unwanted)
    with pytest.raises(SystemExit) as leaving:
        cli.main([*command, "--idr-from=nowhere.png"])
    printed = "error: --idr-from=nowhere.png: No such file or directory: name a picture"
    assert leaving.value.code == 2 and printed in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, printed",
    [
        (MemoryError(), "a.png: not enough memory"),
        (PermissionError(13, "Permission denied", "a.png"), "a.png: Permission denied"),
        (UserError("a.png:\nno"), "a.png: no"),
        (UserError("no"), "a.png: no"),
        (ZeroDivisionError("x"), "a.png: a bug: ZeroDivisionError('x')"),
    ],
)
def test_a_picture_that_fails_does_not_keep_others(
    error: Exception, printed: str, capsys: pytest.CaptureFixture
) -> None:
    def act(job: folder.Job) -> str:
        if job.name == "a.png":
            raise error
        return "made"

    names = ("a.png", "b.png")
    jobs = [folder.Job(x, Path(x), Path("nowhere", x), None) for x in names]
    failed, made = folder.attempts(jobs, act, existing="refuse")
    assert failed == folder.Failed(jobs[0], error)
    assert isinstance(made, folder.Done) and made[:2] == (jobs[1], "made")
    assert upscale.describe_failure(jobs[0], error).startswith(printed)
    assert ("Traceback" in capsys.readouterr().err) == ("bug" in printed)


def test_ctrl_c_tells_what_is_done(capsys: pytest.CaptureFixture) -> None:
    jobs = [folder.Job(x, Path(x), Path("nowhere", x), None) for x in ("a", "b", "c")]

    def act(job: folder.Job) -> str:
        if job.name == "c":
            raise KeyboardInterrupt
        return job.name

    with pytest.raises(KeyboardInterrupt):
        upscale.report(folder.attempts(jobs, act, "refuse"), lambda done: done.result)
    assert capsys.readouterr().out == "done: a\ndone: b\n2 done in 0 s\n"


def test_a_result_as_a_line() -> None:
    job = folder.Job("a.jpg", Path("a.jpg"), Path("out/a.jpg"), None)
    sizes = folder.Sizes((40, 60), (160, 240))
    nearest = Known(2, 2, 0, 5)
    result = folder.Upscaled(job.target, sizes, "JPEG", ["XMP", "a gain map"], nearest)
    assert upscale.describe(folder.Done(job, result, 1.23)) == (
        "60x40 -> 240x160 [without XMP, a gain map] "
        f"[nearest: sigma 2.0, noise 5] {job.target} (1.2 s)"
    )
    assert upscale.describe_plan(folder.Done(job, sizes, 0)) == (
        f"60x40 -> 240x160 {job.target}"
    )


@pytest.mark.parametrize(
    "kinds, printed",
    [
        ({".gif": 3}, "3 unsupported files (.gif)"),
        ({"": 1}, "1 unsupported file (no suffix)"),
        ({".xcf": 1, ".gif": 2}, "3 unsupported files (2 .gif, 1 .xcf)"),
    ],
)
def test_unsupported_files_as_a_line(kinds: dict[str, int], printed: str) -> None:
    assert upscale.describe_unsupported(Counter(kinds)) == f"skipped {printed}"


def test_a_full_disk_is_told_before_maps_are_written(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file would end the process with SIGBUS."""

    def full(file: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no space for 0\.0 GB of maps in .* TMPDIR"):
        Upscaler(model, memory=1)(picture())


def test_formats_that_cannot_hold_the_result(
    replicating: Model, tmp_path: Path
) -> None:
    save(tmp_path / "x.png", np.zeros((1, 9000, 3), np.uint8))
    job = folder.Job("x.png", tmp_path / "x.png", tmp_path / "x.webp", "WEBP")
    with pytest.raises(UserError, match="18000 x 2 pixels exceed the limit of WEBP"):
        folder.upscale(Upscaler(replicating), job, Target())


def test_without_a_network_one_line_says_how_to_get_one(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(packed, "FOLDER", tmp_path)
    with pytest.raises(SystemExit) as leaving:
        cli.main(["upscale", "x.png", "-o", "out"])
    assert leaving.value.code == 2
    assert "make demo" in capsys.readouterr().err


def test_photograph_keeps_what_it_says(replicating: Model, tmp_path: Path) -> None:
    """Through the command's own path: profile, notes, depth and transparency."""
    rng = np.random.default_rng(3)
    colour = rng.integers(65536, size=(6, 8, 3), dtype=np.uint16)
    alpha = np.where(np.arange(8) < 4, 0, 65535).astype(np.uint16)
    alpha = np.broadcast_to(alpha[:, None], (6, 8, 1))
    texts = (png.text_chunk("Author", "Ä".encode()),)
    notes = photographs.Metadata(None, b"<x/>", (300.0, 300.0), texts)
    made = photographs.Photograph(colour, alpha, None, "PNG", notes)
    photographs.write(tmp_path / "in.png", made, kind="PNG")
    job = folder.Job("in.png", tmp_path / "in.png", tmp_path / "out.png", None)
    folder.upscale(Upscaler(replicating), job, Target())
    result = photographs.read(tmp_path / "out.png")
    assert result.metadata.texts == texts
    assert result.metadata.xmp == b"<x/>"
    assert result.metadata.dpi == pytest.approx((300, 300), abs=0.01)
    visible = colour[:, 4:].repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(result.colour[:, 8:], visible)
    # Under full transparency: the colour of the edge, not what happened to be there.
    np.testing.assert_array_equal(
        result.colour[:, :8], np.broadcast_to(visible[:, :1], (12, 8, 3))
    )
