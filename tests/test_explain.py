"""The estimated degradation, as maps and beside known ones."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.goldens import initialise
from PIL import Image

from lightbsr_jax.imaging import degradation, files, kernels
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.inference import explain
from lightbsr_jax.inference.explain import Bank, Known
from lightbsr_jax.inference.upscaler import IDR, Upscaler
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec


def idr(height: int = 9, width: int = 14) -> IDR:
    rng = np.random.default_rng(0)
    size = -(-height // 4), -(-width // 4)
    return IDR(
        rng.normal(size=(*size, 128)).astype(np.float32),
        rng.normal(size=128).astype(np.float32),
        rng.normal(size=48).astype(np.float32),
        rng.normal(size=(height, width, 8)).astype(np.float32),
    )


def test_nearest_weighs_channels_by_their_spread() -> None:
    known = [Known(1, 1, 0, 0), Known(2, 2, 0, 0), Known(3, 1, 45, 10)]
    centres = np.array([[0.0, 0], [1, 100], [4, 0]])
    spread = np.array([[0.5, 100], [-0.5, -100]])  # the second channel is unreliable
    bank = Bank(known, centres[:, None] + spread)
    (first, distance), (second, _) = bank.nearest(np.array([1.0, 0.0]), count=2)
    assert (first, second) == (known[1], known[0])
    assert distance == pytest.approx(np.sqrt((0 + 1) / 2), rel=1e-4)
    labels = [one.label for one in known]
    assert labels == [
        "sigma 1.0",
        "sigma 2.0",
        "l1 3.0, l2 1.0, theta 45, noise 10",
    ]


def test_known_degradations_are_those_of_the_setting() -> None:
    first = explain.known_degradations(1)
    assert len(set(first)) == len(first) == 20
    assert all(one.l1 == one.l2 and not one.noise for one in first)
    second = explain.known_degradations(2)
    assert len(set(second)) == len(second) == (4 + 6 * 4) * 4
    assert {one.noise for one in second} == {0, 5, 10, 20}


def test_a_bank_holds_photographs_as_they_are_degraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(explain, "_CROP", 16)
    network = LightBSR(2, groups=1, blocks=1)
    variables = initialise(network, jax.random.key(0))
    upscaler = Upscaler(
        Model(
            ModelSpec.of_network(network, "student", 1), variables, np.zeros((441, 15))
        )
    )
    bank = explain.make_bank(upscaler, [Known(0.4, 0.4, 0, 0), Known(2.4, 2.4, 0, 0)])
    assert bank.means.shape == (2, 3, 128)

    (_, path), *_ = files.find_images("scikit-image:test")
    hr = files.read_rgb(path)
    top, left = (n // 2 - 16 for n in hr.shape[:2])
    hr = hr[None, top : top + 32, left : left + 32]
    blurred = Degradation(kernels.isotropic(np.array([2.4])), np.zeros(1))
    lr = degradation.synthesise(hr, blurred, None, scale=2)
    expected = network.apply(variables, lr, method="encode").mean((0, 1, 2))
    np.testing.assert_allclose(bank.means[1, 0], expected, atol=1e-5)
    (nearest, _), *_ = bank.nearest(bank.means[1].mean(0))
    assert nearest == bank.known[1]


def test_the_picture_shows_nine_maps() -> None:
    given = idr()
    given.spatial[..., 3] = np.linspace(-1, 1, 14)  # second row, second column
    picture = explain.picture(given)
    assert picture.shape == (3 * 9 + 2 * 4, 3 * 14 + 2 * 4, 3)
    panel = picture[13:22, 18:32].astype(int)
    assert (panel[..., 0] == panel[..., 1]).all()  # grey
    assert (np.diff(panel[0, 1:-1, 0]) > 0).all()
    assert explain.picture(idr(1, 2000)).shape[1] == 3 * 320 + 2 * 4


def test_files(tmp_path: Path) -> None:
    given = idr()
    path = tmp_path / "new" / "x.png-idr"
    explain.write(path, given, [(Known(2, 2, 0, 0), 0.5)])
    printed = json.loads((tmp_path / "new" / "x.png-idr.json").read_text())
    assert printed["nearest"] == [
        {"l1": 2, "l2": 2, "theta": 0, "noise": 0, "distance": 0.5}
    ]
    np.testing.assert_allclose(printed["idr_channel"], given.channel, rtol=1e-6)
    written = np.asarray(Image.open(tmp_path / "new" / "x.png-idr.png"))
    np.testing.assert_array_equal(written, explain.picture(given))
