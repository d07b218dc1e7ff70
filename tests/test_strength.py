"""Blending with bicubic interpolation: `strength` of the upscaler and the command."""

from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import picture
from PIL import Image

from lightbsr_jax import cli
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import resize
from lightbsr_jax.inference import upscaler
from lightbsr_jax.inference.blending import Blend
from lightbsr_jax.inference.upscaler import Upscaler


@pytest.fixture(scope="module")
def upscale() -> Upscaler:
    return Upscaler.load("setting2")


def bicubic(image: np.ndarray) -> np.ndarray:
    """Float32 [4h, 4w, 3], as the program's protocol interpolates."""
    height, width, _ = image.shape
    return np.asarray(resize.bicubic(image, (4 * height, 4 * width)))


@pytest.mark.parametrize("border", [0, 8])
def test_strength_0_is_bicubic_to_the_edge(border: int) -> None:
    image = picture(0, 11, 14).astype(np.float32) / 255
    blend = Blend(image, scale=4, strength=0.0, border=border)
    restored = np.full((44 + 8 * border, 56 + 8 * border, 3), 0.7, np.float32)
    out = blend(restored, 0, np.dtype(np.float32))
    inside = out[4 * border : 4 * border + 44, 4 * border : 4 * border + 56]
    np.testing.assert_allclose(inside, bicubic(image), atol=1e-6)


def test_strips_give_the_bits_of_the_whole() -> None:
    image = picture(1, 150, 9).astype(np.float32) / 255
    blend = Blend(image, scale=4, strength=0.3, border=2)
    rng = np.random.default_rng(0)
    restored = rng.uniform(-0.1, 1.1, (616, 52, 3)).astype(np.float32)
    for kind in map(np.dtype, (np.float32, np.uint8, np.uint16)):
        whole = blend(restored, 0, kind)
        strips = [blend(restored[a : a + 70], a, kind) for a in range(0, 616, 70)]
        np.testing.assert_array_equal(np.concatenate(strips), whole)


def test_integers_are_rounded_once_and_clipped() -> None:
    image = np.zeros((3, 3, 3), np.float32)
    blend = Blend(image, scale=4, strength=0.5, border=0)
    restored = np.full((12, 12, 3), 101 / 255, np.float32)
    restored[0], restored[1] = -1, 3
    out = blend(restored, 0, np.dtype(np.uint8))
    assert (out[0] == 0).all() and (out[1] == 255).all()
    assert (out[2:] == 50).all()  # 50.5 to even; rounded before it would be so, too
    restored[:] = 101.4 / 255
    assert (blend(restored, 0, np.dtype(np.uint8)) == 51).all()  # 50.7, not 101 / 2


def test_between_network_and_bicubic(upscale: Upscaler) -> None:
    image = picture(2, 40, 33)
    full = upscale(image)
    np.testing.assert_array_equal(upscale(image, strength=1.0), full)
    exact = upscale(image.astype(np.float32) / 255)
    for options in ({}, {"self_ensemble": True}):
        if options:
            exact = upscale(image.astype(np.float32) / 255, **options)
        wanted = 0.25 * exact + 0.75 * bicubic(image / np.float32(255))
        blended = upscale(image, strength=0.25, **options)
        assert blended.dtype == np.uint8
        difference = abs(255 * wanted.clip(0, 1) - blended)
        assert difference.max() <= 0.5 + 1e-3
    assert abs(full.astype(int) - upscale(image, strength=0.0)).max() > 3


def test_tiles_and_the_whole_image_agree(
    upscale: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(3, 40, 70).astype(np.float32) / 255
    whole = upscale(image, strength=0.6)
    monkeypatch.setattr(upscaler, "LARGEST", 32)
    small = Upscaler.load("setting2", memory=1)
    np.testing.assert_allclose(small(image, strength=0.6), whole, atol=3e-6)


def test_wrong_strengths_are_named(upscale: Upscaler, tmp_path: Path, capsys) -> None:
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="from 0 to 1"):
            upscale(picture(0, 9, 9), strength=wrong)
    path = tmp_path / "a.png"
    Image.fromarray(picture(0, 9, 9)).save(path)
    arguments = ["upscale", str(path), "-o", str(tmp_path / "out.png")]
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--strength", "2"])
    assert "--strength=2.0: expected 0 to 1" in capsys.readouterr().err


def test_the_command_blends(upscale: Upscaler, tmp_path: Path) -> None:
    image = picture(4, 16, 20)
    Image.fromarray(image).save(tmp_path / "a.png")
    out = tmp_path / "out.png"
    cli.main(
        [
            "upscale",
            str(tmp_path / "a.png"),
            "-o",
            str(out),
            "--strength",
            "0.5",
            "--weights",
            "setting2",
            "--precision",
            "float32",
        ]
    )
    np.testing.assert_array_equal(
        np.asarray(Image.open(out)), upscale(image, strength=0.5)
    )
