"""Networks in parts, and the page that follows their plans in the browser.

Tests of the page need Node.js, and those with a network its packages: `make page`.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.goldens import initialise
from PIL import Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import conversion
from lightbsr_jax.inference.blending import Blend
from lightbsr_jax.inference.upscaler import Upscaler, mirrored
from lightbsr_jax.interop import parts
from lightbsr_jax.methods.dasr.network import DASR
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec
from page import models

PAGE = Path(__file__).parents[1] / "page"


@pytest.fixture(scope="module")
def model() -> Model:
    """A random network in which every block, BatchNorms and means matter."""
    network = LightBSR(3, groups=2, blocks=2)
    rng = np.random.default_rng(0)

    def lively(path: tuple, leaf: jax.Array) -> np.ndarray:
        if path[-1].key in ("layer_scale", "var", "mean", "scale"):
            return rng.uniform(0.5, 1, leaf.shape).astype(np.float32)
        if any(part.key in ("weight_hidden", "weight") for part in path):
            return 20 * np.array(leaf)
        return np.array(leaf)

    variables = initialise(network, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(lively, variables)
    spec = ModelSpec.of_network(network, "student", 1)
    return Model(spec, variables, np.zeros((441, 15)))


@pytest.fixture(scope="module")
def written(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the network."""
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("parts") / "random.model"
    path.write_bytes(parts.write(model, border=8))
    return path


def node() -> str:
    """The interpreter of the page's scripts."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node.js is not installed")
    return found


def run_node(script: str, *arguments: object) -> str:
    """Runs a script of page/test; returns what it prints."""
    done = subprocess.run(
        [node(), PAGE / "test" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def needs_packages() -> None:
    """Skips unless the packages of the page are installed."""
    if not (PAGE / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("the packages of the page are not installed: make page")


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:height, :width]
    waves = np.sin(rows / 5)[..., None] + np.cos(columns[..., None] / (3, 4, 7))
    noise = rng.normal(0, 8, (height, width, 3))
    bright = 80 + 2 * rows[..., None]
    return (bright + 40 * waves + noise).clip(0, 255).astype(np.uint8)


def test_plan_has_each_stage_and_shares_graphs(written: Path, model: Model) -> None:
    content = written.read_bytes()
    size = int.from_bytes(content[:4], "little")
    plan = json.loads(content[4 : 4 + size])
    assert plan["scale"] == 3 and plan["border"] == 8
    names = [step["graph"] for step in plan["steps"]]
    groups, blocks = 2, 2
    assert names.count("block") == groups * blocks
    assert names.count("merge") == names.count("convert_spatial") == groups
    assert names[0] == "estimated" and names[-1] == "merged"
    # Weights are float16 where that loses nothing: here they are random float32.
    kinds = {kind for step in plan["steps"] for _, kind, _ in step["weights"]}
    assert kinds == {"f", "h"}
    first = plan["steps"][0]["weights"][0]
    at = 4 + size + first[0]
    kernel = np.frombuffer(content[at:], "<f4", np.prod(first[2])).reshape(first[2])
    params = model.variables["params"]["estimator"]["conv_0"]["kernel"]
    np.testing.assert_array_equal(kernel, np.transpose(params, (3, 2, 0, 1)))


def test_networks_without_parts_are_refused(model: Model) -> None:
    pytest.importorskip("onnx")
    spec = ModelSpec.of_network(DASR(3, 2, 1), "network", 1)
    with pytest.raises(UserError, match="no ONNX graphs of its parts"):
        parts.write(Model(spec, model.variables, model.basis), border=8)
    teacher = ModelSpec.of_network(LightBSR(3, groups=2, blocks=2), "teacher", 1)
    with pytest.raises(UserError, match="give its student"):
        parts.write(Model(teacher, model.variables, model.basis), border=8)
    ablation = LightBSR(3, groups=2, blocks=2, channel_modulation=False)
    spec = ModelSpec.of_network(ablation, "student", 1)
    with pytest.raises(UserError, match="ablations"):
        parts.write(Model(spec, model.variables, model.basis), border=8)


def test_weights_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="b/best: two weights are named best"):
        models.main(tmp_path / "out", ["photo", "b/best", "c/best.safetensors"])
    assert not (tmp_path / "out").exists()


def test_page_restores_as_the_upscaler_does(
    written: Path, model: Model, tmp_path: Path
) -> None:
    """In tiles with edges inside the picture, at a size that 4 does not divide."""
    needs_packages()
    pixels = mirrored(picture(45, 82), 8)
    expected = Upscaler(model, border=0)(pixels.astype(np.float32) / np.float32(255))
    (tmp_path / "in").write_bytes(pixels.tobytes())
    source, target = tmp_path / "in", tmp_path / "out"
    run_node("restore.mjs", written, source, target, *pixels.shape[:2], 32)
    found = np.fromfile(target, np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # The tolerance tells: means of parts of the picture give another one.
    part = Upscaler(model, border=0)(pixels[:32].astype(np.float32) / np.float32(255))
    assert abs(part[:48] - expected[:48]).max() > 1e-3


def test_page_resizes_and_blends_as_the_package_does(tmp_path: Path) -> None:
    pixels = picture(31, 43)
    height, width, high, wide, scale = 31, 43, 50, 29, 4
    (tmp_path / "in").write_bytes(pixels.tobytes())
    sizes = height, width, high, wide, scale
    run_node("resample.mjs", tmp_path / "in", tmp_path / "out", *sizes)
    found = np.fromfile(tmp_path / "out", np.uint8)
    methods = Image.Resampling.LANCZOS, Image.Resampling.BICUBIC
    expected = [conversion.resized(pixels, (high, wide), resampling=m) for m in methods]
    blend = Blend(
        pixels.astype(np.float32) / np.float32(255), scale=scale, strength=0, border=0
    )
    nothing = np.zeros((height * scale, width * scale, 3), np.float32)
    expected.append(blend(nothing, 0, np.dtype(np.uint8)))
    flat = np.concatenate([x.ravel() for x in expected])
    assert found.shape == flat.shape
    apart = abs(found.astype(int) - flat)
    assert apart.max() <= 1  # a rounding
    assert apart.mean() < 1e-3


def test_units_of_the_page() -> None:
    if int(subprocess.check_output([node(), "--version"])[1:3]) < 20:
        pytest.skip("tests of the page need Node.js 20")
    units = PAGE / "test" / "units.test.mjs"
    subprocess.run([node(), "--test", units], check=True, timeout=300)


def chromium() -> str:
    """A browser for tests: CHROMIUM names one."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("there is no Chromium: CHROMIUM names one")
    return found


@pytest.mark.slow
def test_page_in_a_browser(written: Path, model: Model, tmp_path: Path) -> None:
    """The whole page with a small network: results, refusals, and use offline."""
    needs_packages()
    browser = chromium()
    built, out = tmp_path / "dist", tmp_path / "out"
    about = [{"name": "random", "purpose": "tests", "scale": 3}]
    written.with_name("weights.json").write_text(json.dumps(about))
    build = [node(), PAGE / "build.mjs", written.parent, built]
    subprocess.run(build, check=True, timeout=120)
    pixels = picture(45, 82)
    names = "good", "bad", "huge", "clear"
    good, bad, huge, clear = (tmp_path / f"{name}.png" for name in names)
    Image.fromarray(pixels).save(good)
    opacity = np.linspace(1, 255, pixels[..., :1].size).reshape(45, 82, 1)
    Image.fromarray(np.concatenate([pixels, opacity.astype(np.uint8)], -1)).save(clear)
    bad.write_bytes(good.read_bytes()[:-200])
    Image.new("1", (10000, 10000)).save(huge)
    printed = run_node("browser.mjs", browser, built, out, good, bad, huge, clear)
    found = json.loads(printed)
    assert found["foreign"] == [] and found["told"] == []
    assert found["isolated"] and found["offline"].startswith("Ready")
    state, *caches = found["renewed"]
    assert state.startswith("Ready") and [one[-4:] for one in caches] == ["-new"]
    assert found["asks"] == [True, False]  # as long as results are not saved
    assert found["kept"] == ["done", False]
    assert found["empty"] == "There are no pictures in the folder."
    whole = "Pixels: give a whole number from 1 to 65000."
    assert found["hint"] == found["refused"] == whole
    assert "ends too early" in found["pictures"]["bad.png"]["text"]
    assert "exceed the 16 megapixels" in found["pictures"]["huge.png"]["text"]
    expected = Upscaler(model)(pixels)
    made, through = (
        np.asarray(Image.open(out / f"{name}-x3.png")).astype(int)
        for name in ("good", "clear")
    )
    assert made.shape == expected.shape
    assert abs(made - expected).max() <= 1
    # Colours do not suffer where little of them is seen.
    assert abs(through[..., :3] - expected).max() <= 1
    size = expected.shape[:2]
    alpha = conversion.resized(
        opacity.astype(np.uint8), size, resampling=Image.Resampling.BICUBIC
    )
    assert abs(through[..., 3:] - alpha).max() <= 1
