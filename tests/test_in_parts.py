"""The forward pass that a method writes in parts, against its scanned network."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.goldens import random_like, relative_error
from jax import Array

from lightbsr_jax.compilation import inference_jit
from lightbsr_jax.inference import stages, upscaler
from lightbsr_jax.inference.tiles import Map
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.methods import parts, registry
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks.layers import Conv
from lightbsr_jax.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("highest_precision")

SIZES = {
    "lightbsr": {"groups": 2, "blocks": 2},
    "kdsr": {"features": 8, "blocks": 2, "residual_blocks": 2},
    "dasr": {"groups": 2, "blocks": 1},
}


class Whole:
    """The verbs where a map is one array, which is one part without a halo."""

    def __init__(self, network: BlindNetwork, variables: Any) -> None:
        self._known = network, variables

    def map(
        self, function: Any, reach: int, *maps: Array, given: tuple = (), **_: Any
    ) -> Array:
        return function(*self._known, *maps, *given)

    def mean(self, of: Array) -> Array:
        return of.mean((1, 2))

    def vector(self, function: Any, *given: Any) -> Array:
        return function(*self._known, *given)


def lively(network: BlindNetwork) -> dict[str, Any]:
    """Variables with which every part of the network matters."""

    def visit_all(module: BlindNetwork, lr: Array) -> Any:
        module.project(module.encode(lr))
        return module(lr)

    fresh = partial(network.init, method=visit_all)
    shapes = jax.eval_shape(fresh, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    variables = random_like({"batch_stats": {}, **shapes}, 0)
    statistics = jax.tree.map(lambda x: np.abs(x) + 0.5, variables["batch_stats"])
    return {**variables, "batch_stats": statistics}


@pytest.mark.parametrize("name", registry.METHODS)
def test_whole_image_as_one_part(name: str) -> None:
    method = registry.METHODS[name]
    network = method.network(2, **SIZES[name])
    variables = lively(network)
    lr = np.random.default_rng(0).random((1, 12, 8, 3), np.float32)

    @jax.jit
    def scanned(variables: Any, lr: Array) -> tuple[Array, ...]:
        idr = network.apply(variables, lr, method="encode")
        modulators = network.apply(variables, idr, lr.shape[1:3], method="convert")
        return idr, *modulators, network.apply(variables, lr).sr

    @jax.jit
    def in_parts(variables: Any, lr: Array, idr: Array) -> tuple[Array, ...]:
        whole = Whole(network, variables)
        given = network, whole
        modulators = method.in_parts.modulators(*given, idr, idr.mean((0, 1, 2)))
        features = stages.extracted(network, variables, lr)
        x = method.in_parts.body(*given, features, *modulators)
        restorer = variables["params"]["restorer"]
        last = {"params": restorer["body"]["conv"]}
        x = features + Conv(x.shape[-1]).apply(last, x)
        sr = network.new_restorer().apply({"params": restorer}, x, method="reconstruct")
        return *modulators, sr

    idr, *expected = scanned(variables, lr)
    for a, b in zip(in_parts(variables, lr, idr), expected, strict=True):
        assert relative_error(a, b) < 2e-6


PROGRAMS = {
    "lightbsr": ["_spatial", "extracted", "_convert_spatial", "_block", "_merge"],
    "kdsr": ["extracted", "one"],
    "dasr": ["extracted", "one", "_merge"],
}


@pytest.mark.parametrize(("name", "programs"), PROGRAMS.items())
def test_all_blocks_share_a_program(
    name: str, programs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all tiles, whether the image's border lies in them or not."""
    monkeypatch.setattr(upscaler, "LARGEST", 32)
    compiled = []
    part = stages.part.__wrapped__

    def traced(stage: stages.Stage, *arguments: Any) -> Any:
        compiled.append(stage.function.__name__)
        return part(stage, *arguments)

    jitted = inference_jit(traced, static_argnums=(0, 1, 2))
    monkeypatch.setattr(stages, "part", jitted)
    method = registry.METHODS[name]
    network = method.network(2, **SIZES[name])
    role = "student" if "student" in method.roles else "network"
    spec = ModelSpec.of_network(network, role, 1)
    model = Model(spec, lively(network), np.zeros((441, 15)))
    upscale = Upscaler(model, border=0)
    done = []
    upscale(np.zeros((40, 50, 3), np.uint8), on_progress=lambda *x: done.append(x))
    assert compiled == ["estimated", *programs]
    computed = {"lightbsr": 12, "kdsr": 5, "dasr": 7}[name]
    assert done == [(n + 1, 4 * computed) for n in range(4 * computed)]

    done.clear()
    idr = upscale.estimate(np.zeros((40, 50, 3), np.uint8)).mean
    assert compiled == ["estimated", *programs]
    image = np.zeros((40, 50, 3), np.uint8)
    upscale(image, idr=idr, on_progress=lambda *x: done.append(x))
    assert compiled == ["estimated", *programs]
    # The estimator's stage is passed over.
    assert done == [(n + 1, 4 * computed) for n in range(4, 4 * computed)]


def test_an_estimate_takes_the_programs_of_upscaling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grids = []

    class Watched(upscaler.Grid):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            grids.append((self.tile, self.size))

    monkeypatch.setattr(upscaler, "Grid", Watched)
    network = registry.METHODS["lightbsr"].network(2, **SIZES["lightbsr"])
    spec = ModelSpec.of_network(network, "student", 1)
    upscale = Upscaler(Model(spec, lively(network), np.zeros((441, 15))))
    image = np.zeros((120, 20, 3), np.uint8)  # 128 is a side, and so is 160
    upscale(image)
    upscale.estimate(image)
    (first, whole), (second, size) = grids
    assert (whole, size) == ((136, 36), (120, 20))
    assert first == second == (160, 64)


def test_a_mean_that_was_not_computed_is_no_zero() -> None:
    tiles = upscaler.Tiles.__new__(upscaler.Tiles)
    with pytest.raises(ValueError, match="has no mean"):
        tiles.mean(Map(upscaler.Grid((8, 8), (32, 32), jax.devices()[:1])))


def test_parameters_of_one_module() -> None:
    stacked = {"kernel": np.arange(12).reshape(2, 3, 2)}
    assert parts.at(stacked, np.int32(1), np.int32(2))["kernel"].tolist() == [10, 11]
