"""A fourth method: all that it takes stands here, and it is used as the others are.

DASR's learning with blocks whose features are scaled by the IDR and their own means.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.goldens import relative_error
from jax import Array

from lightbsr_jax.inference import upscaler
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.interop import convert, export
from lightbsr_jax.methods import onnx_graph, parts, registry, torch_layers
from lightbsr_jax.methods.estimator import Estimator, Projector
from lightbsr_jax.methods.method import Method
from lightbsr_jax.methods.network import BlindNetwork, Restorer
from lightbsr_jax.methods.onnx_graph import Graph
from lightbsr_jax.methods.recipe import Adam, Contrast, Recipe
from lightbsr_jax.models import state_dict, torch_files
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks.layers import Conv, Dense
from lightbsr_jax.networks.operators import at_least_float32, global_mean, leaky_relu
from lightbsr_jax.networks.scanned import scan_blocks
from lightbsr_jax.spec import ModelSpec, RunSpec
from lightbsr_jax.training import parallel, updates
from lightbsr_jax.training import state as states

pytestmark = pytest.mark.usefixtures("highest_precision", "fourth_method")


# The network


class Converter(nn.Module):
    @nn.compact
    def __call__(self, idr: Array) -> Array:
        return leaky_relu(Dense(16, name="compress")(global_mean(idr)))


class Block(nn.Module):
    @nn.compact
    def __call__(
        self, x: Array, idr: Array, means: Array | None = None
    ) -> tuple[Array, None]:
        means = global_mean(x) if means is None else means.astype(x.dtype)
        pooled = jnp.concatenate([idr, means], -1)
        scale = Dense(x.shape[-1], name="scale")(pooled)[:, None, None]
        y = leaky_relu(scale * Conv(x.shape[-1], name="conv_0")(x))
        return x + Conv(x.shape[-1], name="conv_1")(y), None


class Body(nn.Module):
    blocks: int
    remat: bool = True

    @nn.compact
    def __call__(self, features: Array, idr: Array) -> Array:
        blocks = scan_blocks(Block, self.blocks, remat=self.remat)(name="blocks")
        x, _ = blocks(features, idr)
        return features + Conv(features.shape[-1], name="conv")(x)


class Scaled(BlindNetwork):
    scale: int = 4
    features: int = 8
    blocks: int = 2
    axis_name: str | None = None
    remat: bool = True
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.estimator = Estimator(self.axis_name, 8)
        self.projector = Projector(32)
        self.converter = Converter()
        self.restorer = self.new_restorer()

    def convert(self, idr: Array, size: tuple[int, int]) -> tuple[Array]:
        return (at_least_float32(self.converter(idr.astype(self.dtype))),)

    @nn.nowrap
    def new_restorer(self) -> Restorer:
        body = Body(self.blocks, self.remat, parent=None)
        return Restorer(self.scale, body, self.features, parent=None)


# How it is computed in parts


def block_in_parts(
    network: Scaled,
    variables: parts.Tree,
    x: Array,
    index: Array,
    idr: Array,
    means: Array,
) -> Array:
    params = parts.at(parts.body_params(variables)["blocks"], index)
    return Block().apply({"params": params}, x, idr.astype(x.dtype), means)[0]


def body_in_parts(
    network: Scaled, verbs: parts.Parts, features: parts.Map, idr: Array
) -> parts.Map:
    x, out = features, None
    for index in range(network.blocks):
        given = (index, idr, verbs.mean(x))
        x = out = verbs.map(block_in_parts, 2, x, given=given, into=out, averaged=True)
    return x


# Its ONNX graph


def to_onnx(graph: Graph, network: Scaled, variables: dict[str, Any]) -> None:
    params, statistics = onnx_graph.as_numpy(variables)
    idr = onnx_graph.estimator(
        graph, onnx_graph.INPUT, params["estimator"], statistics["estimator"]
    )
    idr = graph.idr(idr, params["estimator"]["conv_5"])
    pooled = graph.op("GlobalAveragePool", idr)
    idr = graph.leaky_conv(pooled, params["converter"]["compress"])

    def body(x: str) -> str:
        for number in range(network.blocks):
            block = onnx_graph.layer(params["restorer"]["body"]["blocks"], number)
            means = graph.op("GlobalAveragePool", x)
            pooled = graph.op("Concat", idr, means, axis=1)
            scale = graph.conv(pooled, block["scale"])
            y = graph.op("Mul", scale, graph.conv(x, block["conv_0"]))
            y = graph.conv(graph.leaky_relu(y), block["conv_1"])
            x = graph.op("Add", x, y)
        return x

    onnx_graph.restorer(graph, network, params["restorer"], body)


# Its entry among the methods


def layers(network: Scaled, prefix: str) -> torch_layers.Names:
    names = {f"estimator/conv_{i}": f"{prefix}E.{3 * i}" for i in range(6)}
    names |= {f"estimator/norm_{i}": f"{prefix}E.{3 * i + 1}" for i in range(6)}
    names |= {
        "projector/hidden": f"{prefix}mlp.0",
        "projector/output": f"{prefix}mlp.2",
        "converter/compress": "G.compress.0",
        "restorer/head": "G.head.0",
        "restorer/body/conv": "G.last",
        "restorer/upscale_0": "G.tail.0.0",
        "restorer/upscale_1": "G.tail.0.2",
        "restorer/tail": "G.tail.1",
    }
    named = {ours: np.array(theirs) for ours, theirs in names.items()}
    for layer in ("scale", "conv_0", "conv_1"):
        theirs = [f"G.body.{block}.{layer}" for block in range(network.blocks)]
        named[f"restorer/body/blocks/{layer}"] = np.array(theirs)
    return named


def recognise(shapes: torch_layers.Shapes) -> tuple[Scaled, str] | None:
    blocks = sum(name.endswith(".scale.weight") for name in shapes)
    return (Scaled(4, 8, blocks), "network") if blocks else None


SCALED = Method(
    title="Scaled",
    network=Scaled,
    roles={"network": torch_layers.PRINCIPAL},
    privileged=None,
    projecting=("network",),
    inherited=(),
    distilled=(),
    contrasts="pair",
    loss_range=255,
    reference="nowhere",
    checkout=("scaled.py",),
    published={},
    recipe=Recipe(Adam(0.9, 0.999, 1e-8), (1e-3, 1e-3), Contrast(0.9, 0.1)),
    layers=layers,
    recognise=recognise,
    in_parts=parts.InParts(parts.vector_alone, body_in_parts),
    to_onnx=to_onnx,
)

# What its config says of it.
CONFIG = {
    "method": "scaled",
    "role": "network",
    "setting": 1,
    "scale": 4,
    "network": {"features": 8, "blocks": 2},
    "contrast": {"queue_size": 8, "crops": 2},
}


@pytest.fixture
def fourth_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.METHODS, "scaled", SCALED)


def variables() -> dict[str, Any]:
    return ModelSpec.from_config(CONFIG).fresh_variables(jax.random.key(0))


def test_it_learns() -> None:
    adam, rate = optax.scale_by_adam(), optax.constant_schedule(1e-3)
    network = ModelSpec.from_config(CONFIG).make_network(axis_name=updates.AXIS)
    learner = updates.Learner(SCALED, network, adam, rate)
    update = updates.contrastive_update(learner, stage=2, momentum=0.9, temperature=0.1)
    key = jax.random.key(1)
    state = states.fresh_contrastive_state(variables(), adam, key, queue_size=8)
    rng = np.random.default_rng(0)
    batch = updates.Batch(
        lr=rng.random((4, 2, 8, 8, 3), np.float32),
        prior=np.zeros((4, 15), np.float32),
        hr=np.full((4, 32, 32, 3), 200, np.uint8),
    )
    step = parallel.on_one_device(update, jax.devices()[0])
    measured = []
    for _ in range(8):
        state, metrics = step(state, batch, None)
        measured.append(float(metrics["reconstruction"]))
    assert measured[-1] < 0.8 * measured[0]


def test_it_goes_to_torch_and_back(tmp_path: Path) -> None:
    config = {**CONFIG, "contrast": {"queue_size": 8}}
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.random(zero.shape, np.float32)
        if zero.dtype == np.float32 and "_mean." not in name
        else zero
        for name, zero in state_dict.blank(RunSpec.from_config(config)).items()
    }
    torch_files.write(tmp_path / "a.safetensors", tensors)
    printed = convert.to_workdir(
        tmp_path / "a.safetensors", tmp_path / "run", setting=1
    )
    assert str(printed).startswith("network of Scaled of setting 1, x4")
    convert.to_file(tmp_path / "run", tmp_path / "b.safetensors")
    again = torch_files.read(tmp_path / "b.safetensors")
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)


def test_it_upscales_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "LARGEST", 32)
    network = ModelSpec.from_config(CONFIG).make_network()
    model = Model(
        ModelSpec.of_network(network, "network", 1), variables(), np.zeros((441, 15))
    )
    image = np.random.default_rng(0).random((36, 45, 3), np.float32)
    whole = np.asarray(model.restore(image[None]))[0] / 255
    assert relative_error(Upscaler(model, border=0)(image), whole) < 2e-6


def test_it_goes_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    network = ModelSpec.from_config(CONFIG).make_network()
    model = Model(
        ModelSpec.of_network(network, "network", 1), variables(), np.zeros((441, 15))
    )
    form = export.Form(batch=True, clipped=False)
    export.write(model, tmp_path / "x.onnx", None, overwrite=False, form=form)
    lr = np.random.default_rng(0).random((2, 9, 14, 3), np.float32)
    expected = np.asarray(model.restore(lr)) / 255
    assert relative_error(export.run(tmp_path / "x.onnx", lr), expected) < 2e-6
