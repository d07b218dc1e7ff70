"""Separation of degradations in the IDR: Figure 5 of the paper, with numbers.

An IDR is the estimator's map averaged over its pixels, [N, C]. Images are cut into HR
tiles of 64 LR pixels, the size of the training crops, and each tile gives an IDR.
Neighbours and probes are fitted on some images and tested on others, so that the
content of an image cannot help.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn.linear_model import Ridge
from sklearn.manifold import TSNE
from sklearn.metrics import r2_score, silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightbsr_jax.evaluation.cases import Case
from lightbsr_jax.imaging import degradation, settings
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.kernels import KERNEL_SIZE
from lightbsr_jax.models.model import Model

NEIGHBOURS = 5

_TILE = 64  # LR pixels
_TILES = 100  # upper limit
_FEWEST = 20  # lower limit of tiles
_BATCH = 32
_RANDOM = 4  # random degradations per tile, for the probes


class Numbers(NamedTuple):
    """Figures of separation, which a t-SNE only suggests."""

    silhouette: float  # of the cases as clusters, -1 to 1
    neighbours: float  # share of IDRs whose nearest ones vote for the right case
    probes: dict[str, float]  # R^2 of a linear prediction of random degradations


class Separation(NamedTuple):
    """The IDRs of tiles in some cases."""

    cases: tuple[str, ...]
    case: np.ndarray  # [N], an index into `cases`
    points: np.ndarray  # [N, 2], t-SNE
    tiles: int
    images: int
    trained: Numbers
    untrained: Numbers  # of the same estimator with random weights


class _Tiles(NamedTuple):
    """Degraded tiles, [N, ...]."""

    hr: np.ndarray  # uint8 [N, H, W, 3]
    image: np.ndarray  # the index of each tile's image
    degradation: Degradation


def separation(
    model: Model, images: Iterable[np.ndarray], cases: Sequence[Case]
) -> Separation | None:
    """Measures how well a model separates `cases`, in HR images uint8 [H, W, 3].

    Silhouette and t-SNE use standardised IDRs. Returns None if there are too few
    images, cases or tiles, or if the cases are more than blur and noise.
    """
    hr, image = _cut(images, _TILE * model.scale)
    if len(hr) < _FEWEST or len(set(image)) < 3 or len(cases) < 3:
        return None
    label = np.tile(np.arange(len(cases)), len(hr))
    made = [
        case.degradation for case in cases if isinstance(case.degradation, Degradation)
    ]
    if len(made) < len(cases):
        return None
    known = Degradation(
        np.concatenate([degradation.kernel for degradation in made])[label],
        np.concatenate([degradation.noise_level for degradation in made])[label],
    )
    in_cases = _Tiles(
        np.repeat(hr, len(cases), axis=0), np.repeat(image, len(cases)), known
    )
    drawn = settings.of(model.setting).sample(
        jax.random.split(jax.random.key(1), len(hr) * _RANDOM),
        width_max=float(model.scale),
    )
    at_random = _Tiles(np.repeat(hr, _RANDOM, axis=0), np.repeat(image, _RANDOM), drawn)

    trained, points = _numbers(model, in_cases, label, at_random)
    untrained, _ = _numbers(_fresh(model), in_cases, label, at_random)
    return Separation(
        cases=tuple(case.label for case in cases),
        case=label,
        points=_flat(points),
        tiles=len(hr),
        images=len(set(image)),
        trained=trained,
        untrained=untrained,
    )


def _flat(points: np.ndarray) -> np.ndarray:
    """The t-SNE [N, 2] of points."""
    if not points.any():  # all are equal: scikit-learn divides by their spread
        return np.zeros((len(points), 2))
    # "exact": the approximation does not pay for a few hundred points, and its threads
    # compete on a busy machine.
    return TSNE(
        perplexity=min(30, len(points) / 4), init="pca", method="exact", random_state=0
    ).fit_transform(points)


def _numbers(
    model: Model, in_cases: _Tiles, label: np.ndarray, at_random: _Tiles
) -> tuple[Numbers, np.ndarray]:
    """The figures, and the standardised IDRs of the cases."""
    folds = GroupKFold(min(5, len(set(in_cases.image))))
    idr = StandardScaler().fit_transform(_encode(model, in_cases))
    voted = cross_val_predict(
        KNeighborsClassifier(NEIGHBOURS), idr, label, groups=in_cases.image, cv=folds
    )
    random_idr = _encode(model, at_random)
    probe = make_pipeline(StandardScaler(), Ridge(len(random_idr) / 4))
    probes = {}
    for name, target in traits(at_random.degradation).items():
        predicted = cross_val_predict(
            probe, random_idr, target, groups=at_random.image, cv=folds
        )
        probes[name] = float(r2_score(target, predicted))
    silhouette = float(silhouette_score(idr, label))
    return Numbers(silhouette, float(np.mean(voted == label)), probes), idr


def _fresh(model: Model) -> Model:
    """The same estimator with random weights."""
    lr, known = (
        jnp.zeros((1, 8, 8, 3)),
        Degradation(jnp.zeros((1, KERNEL_SIZE, KERNEL_SIZE)), jnp.zeros(1)),
    )
    hr = jnp.zeros((1, 8 * model.scale, 8 * model.scale, 3))
    init = jax.jit(partial(model.network.init, method="encode"))
    seen = model.privileged(known, hr)
    variables = init(jax.random.key(0), lr, seen)
    return dataclasses.replace(model, variables=variables)


def traits(known: Degradation) -> dict[str, np.ndarray]:
    """Traits of degradations [N], without those that are constant.

    width    standard deviation of the kernel, over both axes
    columns  (v_x - v_y) / (v_x + v_y) of its variances, along columns and along rows
    diagonal 2 v_xy / (v_x + v_y)
    noise    noise level
    """
    kernel = np.asarray(known.kernel, np.float64)
    y, x = np.mgrid[:KERNEL_SIZE, :KERNEL_SIZE] - KERNEL_SIZE // 2
    xx, yy, xy = ((kernel * moment).sum((1, 2)) for moment in (x * x, y * y, x * y))
    found = {
        "width": np.sqrt((xx + yy) / 2),
        "columns": (xx - yy) / (xx + yy),
        "diagonal": 2 * xy / (xx + yy),
        "noise": np.asarray(known.noise_level, np.float64),
    }
    return {name: values for name, values in found.items() if values.std() > 1e-6}


def _cut(images: Iterable[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Adjacent tiles [N, size, size, 3] around the middle, and each tile's image."""
    tiles, image = [], []
    for index, pixels in enumerate(images):
        if len(tiles) >= _TILES:
            break
        rows, columns = (side // size for side in pixels.shape[:2])
        top = (pixels.shape[0] - rows * size) // 2
        left = (pixels.shape[1] - columns * size) // 2
        for row in range(rows):
            for column in range(columns):
                y, x = top + row * size, left + column * size
                tiles.append(pixels[y : y + size, x : x + size].copy())
                image.append(index)
    return np.array(tiles[:_TILES]), np.array(image[:_TILES])


def _encode(model: Model, tiles: _Tiles) -> np.ndarray:
    """The IDRs [N, C]."""
    count = len(tiles.hr)
    keys = jax.random.split(jax.random.key(0), count)
    items = (keys, tiles.hr, tiles.degradation)
    parts = []
    for start in range(0, count, _BATCH):
        # The last batch is padded to the size of the others: one compilation.
        rows = np.minimum(np.arange(start, start + _BATCH), count - 1)
        parts.append(_encode_batch(model, *jax.tree.map(lambda x: x[rows], items)))  # noqa: B023
    return np.concatenate(parts)[:count]


@jax.jit
def _encode_batch(model: Model, keys: Array, hr: Array, known: Degradation) -> Array:
    lr = degradation.apply(keys, hr, known, scale=model.scale)
    return model.encode(lr, known, hr).mean((1, 2))
