"""The pipeline of real-world degradations beside a literal one with the same draws."""

import io
import json

import jax
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from helpers import literal
from jax import Array
from PIL import Image
from skimage import data

from lightbsr_jax.imaging import interpolation, noise, realworld
from lightbsr_jax.imaging.realworld import Parameters

KEYS = jax.random.split(jax.random.key(7), 12)
MANY = 100_000
HEIGHT, WIDTH, SCALE = 48, 64, 4
PRESETS = sorted(realworld.PRESETS)

# Numbers of the published programs and of ours, written out once more: probabilities
# and ranges by name of parameter, for rounds 1 and 2.
TABLE = {
    "real": {
        "none": (0, 0.2),
        "sinc": (0.1, 0.08),
        "isotropic": (0.405, 0.324),
        "anisotropic": (0.225, 0.18),
        "generalised isotropic": (0.108, 0.0864),
        "generalised anisotropic": (0.027, 0.0216),
        "plateau isotropic": (0.108, 0.0864),
        "plateau anisotropic": (0.027, 0.0216),
        "width": ((0.2, 3), (0.2, 1.5)),
        "up": (0.2, 0.3),
        "down": (0.7, 0.4),
        "factor": ((0.15, 1.5), (0.3, 1.2)),
        "area": (1 / 3, 1 / 3),
        "noise": (1, 1),
        "deviation": ((1, 30), (1, 25)),
        "multiple": ((0.05, 3), (0.05, 2.5)),
        "jpeg": (1, 1),
        "quality": ((30, 95), (30, 95)),
        "final sinc": 0.8,
    },
    "photo": {
        "none": (0.1, 0.7),
        "sinc": (0.045, 0.015),
        "isotropic": (0.513, 0.171),
        "anisotropic": (0.21375, 0.07125),
        "generalised isotropic": (0.0684, 0.0228),
        "generalised anisotropic": (0.0171, 0.0057),
        "plateau isotropic": (0.0342, 0.0114),
        "plateau anisotropic": (0.00855, 0.00285),
        "width": ((0.2, 2.4), (0.2, 1)),
        "up": (0.1, 0.2),
        "down": (0.5, 0.3),
        "factor": ((0.5, 1.2), (0.7, 1.2)),
        "area": (0.5, 0.5),
        "noise": (0.6, 0.4),
        "deviation": ((1, 10), (1, 25)),
        "multiple": ((0.05, 0.8), (0.05, 2)),
        "jpeg": (0.6, 0.9),
        "quality": ((60, 95), (40, 95)),
        "final sinc": 0.3,
    },
}


def photographs(count: int) -> np.ndarray:
    image = data.astronaut()
    corners = np.random.default_rng(0).integers(0, 400, (count, 2))
    return np.stack([image[y : y + HEIGHT, x : x + WIDTH] for y, x in corners])


def drawn(preset: str, keys: Array = KEYS) -> Parameters:
    return jax.tree.map(np.asarray, realworld.sample(keys, preset=preset))


def assert_share(where: np.ndarray, probability: float) -> None:
    """Within 4.5 standard errors: one of 150,000 true ones is not."""
    error = np.sqrt(probability * (1 - probability) / len(where))
    assert abs(where.mean() - probability) <= 4.5 * error


def assert_uniform(values: np.ndarray, limits: tuple[float, float]) -> None:
    low, high = limits
    span = high - low
    assert low <= values.min() and values.max() <= high + 1e-6
    assert abs(values.mean() - (low + high) / 2) < 4.5 * span / np.sqrt(
        12 * len(values)
    )
    quarters, _ = np.histogram(values, 4, limits)
    np.testing.assert_allclose(
        quarters / len(values), 0.25, atol=3 / len(values) ** 0.5
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_a_hundred_thousand_draws_follow_the_table(preset: str) -> None:
    many = drawn(preset, jax.random.split(jax.random.key(1), MANY))
    table = TABLE[preset]
    for i in (0, 1):
        limits = {name: both[i] for name, both in table.items() if name != "final sinc"}
        for place, family in enumerate(realworld.FAMILIES):
            assert_share(many.blur.family[:, i] == place, limits[family])
        factor, (least, most) = many.factor[:, i], limits["factor"]
        assert_share(factor > 1, limits["up"])
        assert_share(factor < 1, limits["down"])
        assert_uniform(factor[factor > 1], (1, most))
        assert_uniform(factor[factor < 1], (least, 1))
        assert_uniform(many.blur.l1[:, i], limits["width"])
        assert_share(many.rule[:, i] == 0, limits["area"])
        assert_share(many.rule[:, i] == 1, (1 - limits["area"]) / 2)
        noisy, poisson = many.noise_level[:, i] > 0, many.poisson[:, i]
        assert_share(noisy, limits["noise"])
        assert_share(poisson, 0.5)
        assert_share(many.grey[:, i], 0.4)
        assert_uniform(many.noise_level[noisy & poisson, i], limits["multiple"])
        assert_uniform(many.noise_level[noisy & ~poisson, i], limits["deviation"])
        quality, (worst, best) = many.quality[:, i], limits["quality"]
        assert_share(quality > 0, limits["jpeg"])
        assert {*quality} - {0} == {*range(worst, best + 1)}
        assert_share(quality[quality > 0] == best, 1 / (best + 1 - worst))
    assert_share(many.blur.family[:, 2] == 7, table["final sinc"])
    assert_share(many.blur.family[:, 2] == 0, 1 - table["final sinc"])
    assert_share(many.jpeg_first, 0.5)
    assert_share(many.rule[:, 2] == 2, (1 - table["area"][0]) / 2)


def test_draws_of_kernels_follow_the_table() -> None:
    blur = drawn("real", jax.random.split(jax.random.key(2), MANY)).blur
    family = blur.family[:, 0]
    for extent in range(7, 23, 2):
        assert_share(blur.extent[:, 0] == extent, 1 / 8)
    circular = np.isin(family, (1, 3, 5))
    assert (blur.l1 == blur.l2)[:, 0][circular].all()
    assert not blur.angle[:, 0][circular].any()
    others = ~circular
    assert_uniform(blur.l2[others, 0], (0.2, 3))
    assert abs(np.corrcoef(blur.l1[others, 0], blur.l2[others, 0])[0, 1]) < 0.02
    assert_uniform(blur.angle[others, 0], (-np.pi, np.pi))
    shape = blur.shape[:, 0]
    assert (shape[np.isin(family, (1, 2))] == 1).all()
    generalised = shape[np.isin(family, (3, 4))]
    assert_share(generalised < 1, 0.5)
    assert_uniform(generalised[generalised < 1], (0.5, 1))
    assert_uniform(generalised[generalised > 1], (1, 4))
    plateau = shape[np.isin(family, (5, 6))]
    assert_share(plateau == 1, 0.5)
    assert_uniform(plateau[plateau != 1], (1, 2))
    small = blur.extent[:, 0] < 13
    assert_uniform(blur.cutoff[small, 0], (np.pi / 3, np.pi))
    assert_uniform(blur.cutoff[~small, 0], (np.pi / 5, np.pi))
    assert_uniform(blur.cutoff[:, 2], (np.pi / 3, np.pi))


def literal_kernel(one: Parameters, i: int) -> np.ndarray:
    """The kernel [21, 21] that an image's parameters name."""
    family, extent, l1, l2, angle, shape, cutoff = (x[i] for x in one.blur)
    name = realworld.FAMILIES[family]
    if name == "none":
        return np.pad(np.ones((1, 1)), 10)
    if name == "sinc":
        return literal.sinc_kernel(cutoff, extent)
    kind = "plateau" if "plateau" in name else "generalised"
    return literal.related_kernel(kind, l1, l2, angle, shape, extent)


@pytest.mark.parametrize("preset", PRESETS)
def test_kernels_are_the_literal_ones(preset: str) -> None:
    parameters = drawn(preset, jax.random.split(jax.random.key(3), 60))
    ours = realworld.blur_kernels(parameters.blur)
    assert ours.shape == (60, 3, 21, 21)
    for n in range(60):
        one = jax.tree.map(lambda x, n=n: x[n], parameters)
        expected = [literal_kernel(one, i) for i in range(3)]
        np.testing.assert_allclose(ours[n], expected, atol=2e-6)


def blurred(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return scipy.ndimage.correlate(image, kernel[..., None], mode="mirror")


def resized(
    image: np.ndarray, size: tuple[int, int], rule: int, step: float | None
) -> np.ndarray:
    for length in size:  # an axis comes to the front, is resized and goes to the end
        each = len(image) / length if step is None else step
        image = literal.torch_line(image, length, each, interpolation.RULES[rule])
        image = image.swapaxes(0, 1)
    return image


def with_noise(
    image: np.ndarray, random: np.ndarray, one: Parameters, i: int
) -> np.ndarray:
    random = random[: image.shape[0], : image.shape[1]]
    signal = image
    if one.grey[i]:
        random = random[..., :1]
        signal = np.repeat(image @ [[0.2989], [0.587], [0.114]], 3, -1)
    normal = scipy.stats.norm.ppf(random.astype(float))
    if not one.poisson[i]:
        return np.clip(image + one.noise_level[i] * normal, 0, 255)
    q = np.clip(np.round(signal), 0, 255) / 255
    v = 2 ** np.ceil(np.log2(len(np.unique(q))))
    rate = np.float32(v * q)
    counts = noise.poisson_quantile(rate, random, normal.astype(np.float32))
    return np.clip(image + one.noise_level[i] * 255 * (counts / v - q), 0, 255)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    image = np.clip(image, 0, 255)
    if quality == 0:
        return image
    file = io.BytesIO()
    Image.fromarray(np.round(image).astype(np.uint8)).save(
        file, "JPEG", quality=int(quality)
    )
    return np.asarray(Image.open(file).convert("RGB")).astype(float)


def literal_degraded(hr: np.ndarray, one: Parameters, fields: list) -> np.ndarray:
    """The LR image on the 0..255 scale, step by step as published."""
    kernels = [literal_kernel(one, i) for i in range(3)]
    image = blurred(hr.astype(float), kernels[0])
    size = tuple(int(np.float32(n) * one.factor[0]) for n in (HEIGHT, WIDTH))
    image = resized(image, size, one.rule[0], 1 / float(one.factor[0]))
    image = with_noise(image, fields[0], one, 0)
    image = compressed(image, one.quality[0])
    image = blurred(image, kernels[1])
    lr_size = (HEIGHT // SCALE, WIDTH // SCALE)
    size = tuple(int(np.float32(n) * one.factor[1]) for n in lr_size)
    image = resized(image, size, one.rule[1], None)
    image = with_noise(image, fields[1], one, 1)
    if one.jpeg_first:
        image = compressed(image, one.quality[1])
        image = blurred(resized(image, lr_size, one.rule[2], None), kernels[2])
    else:
        image = blurred(resized(image, lr_size, one.rule[2], None), kernels[2])
        image = compressed(image, one.quality[1])
    return np.clip(np.round(image), 0, 255)


@pytest.mark.parametrize("preset", PRESETS)
def test_pipeline_is_the_literal_one(preset: str) -> None:
    """Rounding in float32 may move a coefficient of JPEG by a step."""
    hr, parameters = photographs(len(KEYS)), drawn(preset)
    ours = realworld.apply(KEYS, hr, parameters, scale=SCALE, preset=preset) * 255
    assert ours.shape == (len(KEYS), 12, 16, 3) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.round(ours), atol=1e-4)
    rounds = realworld.PRESETS[preset].rounds
    canvases = realworld.canvases(HEIGHT, WIDTH, scale=SCALE, rounds=rounds)
    keys = realworld.crop_keys(KEYS, 1)[:, 0]
    same = []
    for n, key in enumerate(keys):
        one = jax.tree.map(lambda x, n=n: x[n], parameters)
        fields = [np.asarray(x) for x in realworld.noise_fields(key, canvases)]
        difference = ours[n] - literal_degraded(hr[n], one, fields)
        assert np.sqrt(np.mean(difference**2)) < 1, f"image {n}: {difference}"
        same.append(np.mean(np.abs(difference) < 0.01))
    assert np.mean(same) > 0.98 and np.min(same) > 0.8, same


def test_a_key_decides_wherever_it_stands_and_all_takes_one_program() -> None:
    hr = photographs(8).reshape(4, 2, HEIGHT, WIDTH, 3)
    parameters = drawn("real", KEYS[:4])
    lr = realworld.apply(KEYS[:4], hr, parameters, scale=SCALE, preset="real")
    assert lr.shape == (4, 2, 12, 16, 3)
    order = np.array([2, 0, 3, 1])
    compiled = realworld.apply._cache_size()
    again = drawn("real", KEYS[order])
    assert all(jax.tree.map(lambda a, b: (a == b[order]).all(), again, parameters))
    ours = realworld.apply(KEYS[order], hr[order], again, scale=SCALE, preset="real")
    np.testing.assert_array_equal(ours, lr[order])
    other = drawn("real", KEYS[4:8])
    realworld.apply(KEYS[4:8], hr, other, scale=SCALE, preset="real")
    assert realworld.apply._cache_size() == compiled

    # The crops of an image have the same degradation with other noise.
    same = np.repeat(hr[:, :1], 2, axis=1)
    crops = realworld.apply(KEYS[:4], same, parameters, scale=SCALE, preset="real")
    assert (np.abs(crops[:, 0] - crops[:, 1]).mean((1, 2, 3)) > 0.002).all()
    quiet = parameters._replace(noise_level=0 * parameters.noise_level)
    crops = realworld.apply(KEYS[:4], same, quiet, scale=SCALE, preset="real")
    np.testing.assert_array_equal(crops[:, 0], crops[:, 1])


@pytest.mark.slow
def test_vmap_gives_the_same_as_one_image_after_the_other() -> None:
    hr, parameters = photographs(len(KEYS)), drawn("real")  # of a compiled program
    lr = realworld.apply(KEYS, hr, parameters, scale=SCALE, preset="real")[:3]
    hr, parameters = jax.tree.map(lambda x: x[:3], (hr, parameters))
    rounds = realworld.PRESETS["real"].rounds

    def one(key: Array, hr: Array, blur: Array, drawn: Parameters) -> Array:
        return realworld._degraded(key, hr, blur, drawn, scale=SCALE, rounds=rounds)

    ours = jax.jit(jax.vmap(one))(
        realworld.crop_keys(KEYS[:3], 1)[:, 0],
        hr,
        realworld.blur_kernels(parameters.blur),
        parameters._replace(blur=None),
    )
    difference = np.abs(ours - lr) * 255
    assert (difference < 0.01).mean() > 0.98 and difference.mean() < 0.1


def test_images_that_do_not_fit() -> None:
    parameters = drawn("photo", KEYS[:1])
    for shape in [(1, 12, 14, 3), (1, 12, 16, 1)]:
        with pytest.raises(ValueError, match="need 3 channels and multiples of scale"):
            realworld.apply(
                KEYS[:1], np.zeros(shape), parameters, scale=4, preset="photo"
            )


def test_small_images_keep_a_pixel() -> None:
    """Else the LR image of 8 x 8 pixels would be not a number."""
    sizes = realworld.scaled_size(np.array([2, 20]), np.float32(0.3))
    np.testing.assert_array_equal(sizes, [1, 6])


@pytest.mark.parametrize("preset", PRESETS)
def test_description_names_what_was_drawn(preset: str) -> None:
    parameters = drawn(preset)
    described = json.loads(json.dumps(realworld.described(parameters)))
    assert len(described) == len(KEYS)
    for n, one in enumerate(described):
        assert list(one) == ["round 1", "round 2", "end"]
        factor = one["round 2"]["resize"]["factor"]
        assert factor == pytest.approx(parameters.factor[n, 1])
        blur, family = one["round 1"]["blur"], parameters.blur.family[n, 0]
        assert (blur is None) == (family == 0)
        if blur:
            assert blur["family"] == realworld.FAMILIES[family]
            assert ("cutoff" in blur) == (family == 7) != ("l1" in blur)
            assert ("l2" in blur) == (family in (2, 4, 6))
            assert ("shape" in blur) == (3 <= family <= 6)
        added = one["round 2"]["noise"]
        assert (added is None) == (parameters.noise_level[n, 1] == 0)
        assert (one["end"]["jpeg"] or 0) == parameters.quality[n, 1]
        first = one["end"]["order"] == "JPEG first"
        assert first == parameters.jpeg_first[n]
