"""KDSR and DASR: their sizes, layers and names, and how they learn.

Where PyTorch is installed, their blocks beside ones put together of torch's layers.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from helpers import literal
from helpers.goldens import random_like, relative_error

from configs import dasr, kdsr_student, kdsr_teacher
from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import cases as evaluation_cases
from lightbsr_jax.evaluation import report, tables
from lightbsr_jax.evaluation.benchmark import Score
from lightbsr_jax.evaluation.cost import Cost
from lightbsr_jax.evaluation.findings import Findings, Network
from lightbsr_jax.evaluation.idr import Numbers, Separation
from lightbsr_jax.evaluation.restorers import Contender
from lightbsr_jax.imaging import prior
from lightbsr_jax.inference import explain, upscaler
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.interop import convert
from lightbsr_jax.methods import dynamic, registry
from lightbsr_jax.methods.kdsr.network import KDSR
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models import state_dict, torch_files, torch_names
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks import complexity, operators, plain
from lightbsr_jax.parity import case as cases
from lightbsr_jax.parity import compare, ours
from lightbsr_jax.spec import ModelSpec, RunSpec, method_of
from lightbsr_jax.training import (
    checks,
    contrast,
    losses,
    schedules,
    setup,
    updates,
)
from lightbsr_jax.training import state as states
from lightbsr_jax.training.config import TrainingConfig

pytestmark = pytest.mark.usefixtures("highest_precision")

Config = dict[str, Any]

KDSR_SIZES = {"features": 8, "blocks": 2, "residual_blocks": 2}
DASR_SIZES = {"groups": 2, "blocks": 1}
CONFIGS: dict[str, Config] = {
    "kdsr teacher": {"method": "kdsr", "role": "teacher", "network": KDSR_SIZES},
    "kdsr student": {"method": "kdsr", "role": "student", "network": KDSR_SIZES},
    "dasr": {
        "method": "dasr",
        "role": "network",
        "network": DASR_SIZES,
        "contrast": {"queue_size": 24},
    },
    "dasr as published": {"method": "dasr", "role": "network", "network": DASR_SIZES},
}
for _config in CONFIGS.values():
    _config |= {"setting": 2, "scale": 2}


def random_variables(config: Config, seed: int = 0) -> dict[str, Any]:
    fresh = ModelSpec.from_config(config).fresh_variables
    variables = random_like(jax.eval_shape(fresh, jax.random.key(0)), seed)
    statistics = jax.tree.map(lambda x: np.abs(x) + 0.5, variables["batch_stats"])
    return {**variables, "batch_stats": statistics}


# Sizes


@pytest.mark.parametrize(
    ("config", "estimator", "generator", "macs"),
    [
        (kdsr_student.get_config(), 1_331_136, 4_463_963, 260.1),
        (kdsr_teacher.get_config(), 1_358_784, 4_463_963, None),
        (dasr.get_config(), 1_278_784, 4_690_523, 210.6),
    ],
)
def test_size_and_operations(
    config: Any, estimator: int, generator: int, macs: float | None
) -> None:
    fresh = ModelSpec.from_config(config).fresh_variables
    variables = jax.eval_shape(fresh, jax.random.key(0))
    counts = {
        name: complexity.parameters(part) for name, part in variables["params"].items()
    }
    # DASR's converter is in its generator, KDSR's in its estimator. The published
    # figures count the 24 fixed numbers of the mean shift.
    converter = counts["converter"]
    in_generator = converter * (config.method == "dasr")
    assert counts["restorer"] + in_generator + 24 == generator
    found = counts["estimator"] + counts["projector"] + converter - in_generator
    assert found == estimator
    if macs is not None:
        network = ModelSpec.from_config(config).make_network()
        lr = jax.ShapeDtypeStruct((1, 256, 256, 3), np.float32)
        counted = complexity.multiply_accumulates(network.apply, variables, lr)
        assert counted / 1e9 == pytest.approx(macs, abs=0.05)


# Layers


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Features [B, h, w, C] and kernels [B, 3, 3, C]."""
    rng = np.random.default_rng(0)
    shapes = [(2, 5, 4, 6), (2, 3, 3, 6)]
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def test_image_depthwise_conv(images: tuple[np.ndarray, np.ndarray]) -> None:
    x, kernel = images
    expected = [
        literal.depthwise_conv(one, k[:, :, None])
        for one, k in zip(x, kernel, strict=True)
    ]
    shifted = operators.image_depthwise_conv(x, kernel)
    np.testing.assert_allclose(shifted, expected, atol=1e-5)
    product = plain.image_depthwise_conv(x, kernel)
    np.testing.assert_allclose(product, expected, atol=1e-5)


def test_gradients_of_image_depthwise_conv(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    def loss(conv: Callable, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.square(conv(x, kernel)).sum()

    shifted, product = (
        jax.grad(partial(loss, conv), argnums=(0, 1))(*images)
        for conv in (operators.image_depthwise_conv, plain.image_depthwise_conv)
    )
    for a, b in zip(shifted, product, strict=True):
        assert relative_error(a, b) < 1e-6


def test_pixel_unshuffle_is_the_inverse() -> None:
    x = np.arange(2 * 3 * 2 * 18.0).reshape(2, 3, 2, 18)
    shuffled = operators.pixel_shuffle(x, 3)
    np.testing.assert_array_equal(operators.pixel_unshuffle(shuffled, 3), x)


def test_kernels_are_in_torchs_order() -> None:
    """The second layer's output c 9 + i 3 + j is channel c's tap (i, j)."""
    module = dynamic.DynamicDepthwise()
    x, idr = np.zeros((1, 3, 3, 4), np.float32), np.ones((1, 4), np.float32)
    x[0, 2, 0, 1] = 1  # what the centre sees through the tap (2, 0)
    params = {
        "hidden": {"kernel": np.eye(4, dtype=np.float32)},
        "kernel": {"kernel": np.zeros((4, 36), np.float32)},
    }
    params["kernel"]["kernel"][0, 1 * 9 + 2 * 3 + 0] = 5
    result = module.apply({"params": params}, x, idr)
    assert result[0, 1, 1].tolist() == [0, 5, 0, 0]


# Weights


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_go_to_torch_and_back(name: str, tmp_path: Path) -> None:
    """The file identifies method and role, and every bit is restored."""
    config = CONFIGS[name]
    rng = np.random.default_rng(0)
    tensors = {
        key: rng.standard_normal(zero.shape).astype(zero.dtype)
        if zero.dtype == np.float32 and "_mean." not in key
        else zero
        for key, zero in state_dict.blank(RunSpec.from_config(config)).items()
    }
    torch_files.write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(UserError, match="whose weights do not store"):
        convert.to_workdir(tmp_path / "a.safetensors", tmp_path / "run")
    what = convert.to_workdir(tmp_path / "a.safetensors", tmp_path / "run", setting=2)
    assert f"of {config['method'].upper()} of setting 2, x2" in str(what)
    convert.to_file(tmp_path / "run", tmp_path / "b.safetensors")
    again = torch_files.read(tmp_path / "b.safetensors")
    assert again.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(again[key], tensor, err_msg=key)
    model = Model.load(tmp_path / "run")
    assert model.method is registry.METHODS[config["method"]]
    assert (model.role, model.scale) == (config["role"], 2)


def test_names_are_the_originals() -> None:
    """Some of each kind, as the published programs have them."""
    names = {
        name: {
            key: value.shape
            for key, value in state_dict.blank(RunSpec.from_config(config)).items()
        }
        for name, config in CONFIGS.items()
    }
    expected = {
        "kdsr teacher": {
            "E.E.0.weight": (8, 15, 3, 3),
            "E.E.3.body.2.bias": (8,),
            "E.E.8.weight": (32, 16, 3, 3),
            "E.mlp.2.weight": (32, 32),
            "E.compress.0.weight": (8, 32),
            "G.body.0.body.1.da_conv1.kernel.2.weight": (72, 8),
            "G.body.0.body.1.conv1.weight": (8, 8, 3, 3),
            "G.body.1.bias": (8,),
        },
        "kdsr student": {"E_st.E.0.weight": (8, 3, 3, 3), "E_st.mlp.0.bias": (32,)},
        "dasr": {
            "E.encoder_k.E.16.running_mean": (256,),
            "E.encoder_q.mlp.2.weight": (256, 256),
            "E.queue": (256, 24),
            "G.compress.0.weight": (64, 256),
            "G.body.1.body.0.da_conv2.ca.conv_du.0.weight": (8, 64, 1, 1),
            "G.body.1.body.0.da_conv1.conv.bias": (64,),
            "G.body.1.body.1.weight": (64, 64, 3, 3),
            "G.body.2.bias": (64,),
        },
    }
    for name, shapes in expected.items():
        assert shapes.items() <= names[name].items()
    assert "E.queue" not in names["dasr as published"]
    shift = state_dict.blank(RunSpec.from_config(CONFIGS["dasr"]))["G.sub_mean.bias"]
    np.testing.assert_allclose(shift, -255 * np.array([0.4488, 0.4371, 0.4040]))


# The published networks, layer by layer in torch


def torch_network(torch: Any, name: str, tensors: dict[str, np.ndarray]) -> Callable:
    """From LR and HR images [B, C, h, w] to SR images, of torch's own operators."""
    functional = torch.nn.functional
    t = {key: torch.tensor(value) for key, value in tensors.items()}

    def layer(x: Any, key: str, stride: int = 1) -> Any:
        weight, bias = t[f"{key}.weight"], t.get(f"{key}.bias")
        if weight.ndim == 2:
            return functional.linear(x, weight, bias)
        return functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def leaky(x: Any) -> Any:
        return functional.leaky_relu(x, 0.1)

    def dynamic_conv(x: Any, idr: Any, key: str) -> Any:
        kernel = layer(leaky(layer(idr, f"{key}.kernel.0")), f"{key}.kernel.2")
        kernel = kernel.reshape(-1, 1, 3, 3)
        grouped = x.reshape(1, -1, *x.shape[2:])
        grouped = functional.conv2d(grouped, kernel, padding=1, groups=len(kernel))
        return leaky(grouped.reshape(x.shape))

    def kdsr_idr(lr: Any, hr: Any | None, e: str) -> Any:
        x = lr
        if hr is not None:
            x = torch.cat([lr, functional.pixel_unshuffle(hr, 2)], 1)
        x = leaky(layer(x, f"{e}E.0"))
        for block in (2, 3):
            y = leaky(layer(x, f"{e}E.{block}.body.0"))
            x = x + layer(y, f"{e}E.{block}.body.2")
        for index in (4, 6, 8):
            x = leaky(layer(x, f"{e}E.{index}"))
        x = leaky(layer(x.mean((2, 3)), f"{e}mlp.0"))
        return leaky(layer(leaky(layer(x, f"{e}mlp.2")), f"{e}compress.0"))

    def kdsr_body(x: Any, idr: Any) -> Any:
        for block in (0, 1):
            key = f"G.body.0.body.{block}"
            x = x + layer(dynamic_conv(x, idr, f"{key}.da_conv1"), f"{key}.conv1")
        return layer(x, "G.body.1")

    def dasr_idr(lr: Any) -> Any:
        x = lr
        for index in range(6):
            key = f"E.encoder_q.E.{3 * index + 1}"
            x = layer(x, f"E.encoder_q.E.{3 * index}", 1 + (index in (2, 4)))
            norm = (t[f"{key}.{part}"] for part in ("running_mean", "running_var"))
            x = functional.batch_norm(x, *norm, t[f"{key}.weight"], t[f"{key}.bias"])
            x = leaky(x)
        return leaky(layer(x.mean((2, 3)), "G.compress.0"))

    def aware(x: Any, idr: Any, key: str) -> Any:
        gate = leaky(layer(idr[:, :, None, None], f"{key}.ca.conv_du.0"))
        gate = torch.sigmoid(layer(gate, f"{key}.ca.conv_du.2"))
        return layer(dynamic_conv(x, idr, key), f"{key}.conv") + x * gate

    def dasr_body(x: Any, idr: Any) -> Any:
        for group in (0, 1):
            key = f"G.body.{group}.body.0"
            y = leaky(aware(x, idr, f"{key}.da_conv1"))
            y = leaky(layer(y, f"{key}.conv1"))
            y = leaky(aware(y, idr, f"{key}.da_conv2"))
            y = x + layer(y, f"{key}.conv2")
            x = x + layer(y, f"G.body.{group}.body.1")
        return layer(x, "G.body.2")

    def restore(lr: np.ndarray, hr: np.ndarray | None) -> np.ndarray:
        lr = torch.tensor(lr).movedim(-1, 1)
        hr = hr if hr is None else torch.tensor(hr).movedim(-1, 1)
        pixel_range = 255 if name == "dasr" else 1
        lr = pixel_range * lr
        if name == "dasr":
            idr, body = dasr_idr(lr), dasr_body
        else:
            estimator = "E_st." if name == "kdsr student" else "E."
            idr, body = kdsr_idr(lr, hr, estimator), kdsr_body
        x = layer(layer(lr, "G.sub_mean"), "G.head.0")
        x = x + body(x, idr)
        x = functional.pixel_shuffle(layer(x, "G.tail.0.0"), 2)
        sr = layer(layer(x, "G.tail.1"), "G.add_mean")
        return sr.movedim(1, -1).numpy() / pixel_range

    return restore


@pytest.mark.parametrize("name", ["kdsr teacher", "kdsr student", "dasr"])
def test_network_is_torchs(name: str, torch: Any) -> None:
    config = CONFIGS[name]
    network = ModelSpec.from_config(config).make_network()
    variables = random_variables(config)
    prefix = method_of(config).roles[config["role"]]
    tensors = torch_names.to_torch(variables, network, prefix)
    tensors |= torch_names.mean_shift(network.IMAGE_RANGE)
    rng = np.random.default_rng(0)
    lr = rng.random((2, 7, 6, 3), np.float32)
    hr = rng.random((2, 14, 12, 3), np.float32) if name == "kdsr teacher" else None
    restored = jax.jit(network.apply)(variables, lr, hr)
    expected = torch_network(torch, name, tensors)(lr, hr)
    assert relative_error(restored.sr, expected) < 1e-5


# Beside the published programs


def test_checkouts_are_recognised(tmp_path: Path) -> None:
    folders = {"kdsr": "a/KDSR-classic", "dasr": "b", "lightbsr": "c"}
    files = {
        folder: registry.METHODS[name].checkout for name, folder in folders.items()
    }
    files["d"] = cases.LAST_STAGES["kdsr"].files
    for folder, names in files.items():
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).touch()
    found = [compare.find_program(tmp_path / name) for name in "abc"]
    assert found == [(name, tmp_path / folder, 0) for name, folder in folders.items()]
    assert compare.find_program(tmp_path / "d") == ("kdsr", tmp_path / "d", 64)
    case = cases.make(scale=2, setting=1, method="dasr", network=DASR_SIZES)
    with pytest.raises(UserError, match="is a checkout of KDSR, but the weights are"):
        compare.run_reference(tmp_path / "a", case)


@pytest.mark.parametrize("method", ["kdsr", "dasr"])
def test_every_layer_is_compared(method: str) -> None:
    network = {"kdsr": KDSR_SIZES, "dasr": DASR_SIZES}[method]
    case = cases.make(
        scale=2, setting=1, method=method, network=network, size=(6, 7), queue_size=16
    )
    for role in case.roles:
        outputs = ours.evaluation(case, role)
        prefix = registry.METHODS[method].roles[role]
        layers_of = torch_names.layers(case.network, prefix)
        wanted = {str(n) for path, names in layers_of.items() for n in names.flat}
        wanted -= {"G.tail.0.2"}  # at scale 2
        wanted |= {"G"}
        assert {n.removeprefix(f"{role}/evaluation/") for n in outputs} == wanted
        quantities = {compare.classify(name).quantity for name in outputs}
        assert f"{role}, evaluation: kernels and gates" in quantities
        assert all(np.isfinite(x).all() and np.any(x) for x in outputs.values())


# Use


@pytest.mark.parametrize("name", ["kdsr student", "dasr"])
def test_tiles_give_what_the_whole_image_gives(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[name]
    monkeypatch.setattr(upscaler, "LARGEST", 32)
    network = ModelSpec.from_config(config).make_network()
    variables = random_variables(config)
    basis = np.zeros(prior.BASIS_SHAPE)
    model = Model(ModelSpec.of_network(network, config["role"], 2), variables, basis)
    image = np.random.default_rng(0).random((36, 45, 3), np.float32)
    whole = np.asarray(model.restore(image[None]))[0] / 255
    upscale = Upscaler(model, border=0)
    done = []
    sr = upscale(image, on_progress=lambda *progress: done.append(progress))
    assert relative_error(sr, whole) < 2e-6
    assert done[-1][0] == done[-1][1] == len(done)
    estimated = upscale.estimate(image)
    idr = np.asarray(jax.jit(type(model).encode)(model, image[None]))[0]
    step = 4 // network.REDUCTION
    # Measured 1.1e-6 for DASR without AVX-512 (sums in another order).
    assert relative_error(estimated.map, idr[::step, ::step]) < 2e-6
    assert relative_error(estimated.mean, idr.mean((0, 1))) < 1e-6
    assert explain.picture(estimated).dtype == np.uint8
    other = upscale(image, idr=np.zeros_like(estimated.mean))
    assert relative_error(other, whole) > 1e-3


def test_networks_beside_each_other_in_a_report(tmp_path: Path) -> None:
    tested = evaluation_cases.make(1)
    scores = [
        Score(method, "Set5", image, case.label, 30.0, 0.9)
        for method in ("bicubic", "KDSR", "DASR")
        for image in ("a", "b")
        for case in tested
    ]
    numbers = Numbers(0.1, 0.5, {"width": 0.3})
    separation = Separation(
        ("a", "b", "c"), np.arange(3), np.eye(3, 2), 1, 1, numbers, numbers
    )
    networks = {
        name: Network(Cost(6 * 10**6, macs * 10**9, 1.0, "cpu"), separation)
        for name, macs in {"KDSR": 260, "DASR": 211}.items()
    }
    contenders = [
        Contender("bicubic", "bicubic"),
        Contender("KDSR", "kdsr", "student", 5_800_000),
        Contender("DASR", "dasr", "network", 6_000_000),
    ]
    about = {
        "seconds": 1,
        "scale": 4,
        "convention": "",
        "devices": "",
        "processes": 1,
        "lr": "",
        "versions": {},
    }
    found = Findings(
        contender=contenders[1],
        title="KDSR",
        scores=scores,
        tables=tables.make(scores, tested, scale=4, contenders=contenders),
        examples=[],
        networks=networks,
        about={**about, "compilation": {"programs": 0, "seconds": 0, "from_cache": 0}},
    )
    report.write(tmp_path, found)
    lines = (tmp_path / "report.md").read_text().splitlines()
    first = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    table, complexity = (
        first[start : start + 14] for start in (0, first.index("method", 1))
    )
    for rows in (table, complexity[1:]):
        for name, shown in {"KDSR": "**KDSR**", "DASR": "**DASR**"}.items():
            mine = shown if shown in rows else name
            assert rows[rows.index(f"{name} (paper)") + 1] == mine
    assert {"KDSR", "untrained", "DASR", "DASR, untrained"} <= set(first)
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert sum(name.startswith("t-SNE") for name in drawn) == 2
    assert "211.00" in next(line for line in lines[::-1] if line.startswith("| DASR "))


# Training

ADAM = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-3)
RATE = optax.constant_schedule(1e-3)


def learning(before: Any, after: Any) -> set[str]:
    def changed(name: str) -> bool:
        a, b = (flatten_dict(state.params[name]) for state in (before, after))
        return any(np.any(a[path] != b[path]) for path in a)

    return {name for name in before.params if changed(name)}


def batch_of(crops: int) -> updates.Batch:
    rng = np.random.default_rng(0)
    return updates.Batch(
        lr=rng.random((1, 4, crops, 8, 8, 3), np.float32),
        prior=np.zeros((1, 4, 18), np.float32),
        hr=rng.integers(256, size=(1, 4, 16, 16, 3), dtype=np.uint8),
    )


def stepped(update: updates.Update, state: Any, crops: int, teacher: Any) -> Any:
    step = jax.pmap(
        update,
        updates.AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        devices=jax.devices()[:1],
    )
    return step(state, batch_of(crops), updates.Frozen(teacher))


def test_kdsr_student_learns_by_stage() -> None:
    """Stage 1: the KL of the features alone, by what makes the feature."""
    network = ModelSpec.from_config(CONFIGS["kdsr student"]).make_network()
    teacher = random_variables(CONFIGS["kdsr teacher"])
    fresh = random_variables(CONFIGS["kdsr student"], seed=1)
    variables = states.inherit(fresh, teacher, registry.METHODS["kdsr"].inherited)
    state = states.fresh_train_state(variables, ADAM)
    assert not learning(
        state,
        state.replace(
            params={**fresh["params"], **{"restorer": teacher["params"]["restorer"]}}
        ),
    )
    make = partial(
        updates.distillation_update,
        updates.Learner(registry.METHODS["kdsr"], network, ADAM, RATE),
        temperature=0.15,
        l1_weight=0.0,
    )
    first, measured = stepped(make(stage=1), state, 1, teacher)
    assert learning(state, first) == {"estimator", "projector"}
    batch = batch_of(1)
    lr, hr = batch.lr[0, :, 0], batch.hr[0] / np.float32(255)

    @jax.jit
    def feature(variables: Any, hr: np.ndarray | None) -> jax.Array:
        idr = network.apply(variables, lr, hr, method="encode")
        return network.apply(variables, idr, method="project")

    p, q = (
        np.exp(np.float64(x) / 0.15)
        for x in (feature(teacher, hr), feature(variables, None))
    )
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    divergence = (p * np.log(p / q)).sum(1).mean()
    assert float(measured["channel"]) == pytest.approx(divergence, rel=1e-4)

    second, measured = stepped(make(stage=2), first, 1, teacher)
    assert learning(first, second) == set(state.params)
    sr = jax.jit(network.apply)({"params": first.params}, lr).sr
    expected = np.abs(np.asarray(sr) - hr).mean()
    assert float(measured["reconstruction"]) == pytest.approx(expected, rel=1e-5)


def test_dasr_contrasts_the_first_crop_with_the_second() -> None:
    network = ModelSpec.from_config(CONFIGS["dasr"]).make_network(
        axis_name=updates.AXIS
    )
    variables = random_variables(CONFIGS["dasr"])
    key = jax.random.key(0)
    state = states.fresh_contrastive_state(variables, ADAM, key, queue_size=8)
    assert state.queue.shape == (8, 256)
    learner = updates.Learner(registry.METHODS["dasr"], network, ADAM, RATE)
    update = updates.contrastive_update(
        learner, stage=1, momentum=0.999, temperature=1.0
    )
    after, measured = stepped(update, state, 2, None)
    assert learning(state, after) == {"estimator", "projector"}

    @jax.jit
    def embed(lr: np.ndarray) -> jax.Array:
        alone = ModelSpec.from_config(CONFIGS["dasr"]).make_network()
        idr, _ = alone.apply(
            variables,
            lr[None],
            visits=(0,),
            method="encode",
            mutable="batch_stats",
        )
        projected = alone.apply(variables, idr[0], method="project")
        return contrast.normalise(projected)

    query, key = (embed(batch_of(2).lr[0, :, crop]) for crop in (0, 1))
    np.testing.assert_allclose(after.queue[:4], key, atol=1e-4)
    logits = np.concatenate(
        [np.sum(query * key, 1, keepdims=True), query @ np.asarray(state.queue).T], 1
    )
    logits = np.exp(np.float64(logits))
    expected = -np.log(logits[:, 0] / logits.sum(1)).mean()
    assert float(measured["contrastive"]) == pytest.approx(expected, rel=1e-3)


def test_rates_fall_by_steps() -> None:
    """As the published programs count: epochs from 1, in each stage anew."""
    config = dasr.get_config()
    rate = schedules.of(TrainingConfig.from_flags(config).schedule)

    def published(epoch: int) -> float:
        if epoch <= 100:
            return 1e-3 * 0.1 ** (epoch // 60)
        return 1e-4 * 0.5 ** ((epoch - 100) // 125)

    for epoch in (1, 59, 60, 100, 101, 224, 225, 349, 350, 600):
        step = (epoch - 1) * config.schedule.steps_per_epoch
        assert float(rate(step)) == pytest.approx(published(epoch), rel=1e-5)


@pytest.mark.parametrize("module", [kdsr_teacher, kdsr_student, dasr])
def test_presets_can_be_trained(module: Any) -> None:
    for preset in module.PRESETS:
        config = module.get_config(preset)
        config.data.hr = "somewhere"
        if "distillation" in config:
            config.distillation.teacher = "somewhere"
        checks.check(TrainingConfig.from_flags(config))
        assert config.network.blocks in (53, 42, 28, 8, 5, 2)
        config.schedule.decay_epochs = 0
        config.schedule.stage1_epochs = 1
        with pytest.raises(UserError) as caught:
            checks.check(TrainingConfig.from_flags(config))
        too_small = "config.schedule.decay_epochs 0 is too small: at least 1"
        assert too_small in str(caught.value)
        without = module is kdsr_teacher or "adversarial" in config
        assert ("there is no stage 1" in str(caught.value)) == without
        config.network.blocks = 0
        with pytest.raises(
            UserError, match=r"network\.blocks 0 is too small: at least 1"
        ):
            TrainingConfig.from_flags(config)


def test_student_of_another_methods_teacher_is_refused() -> None:
    config = kdsr_student.get_config("demo")
    spec = ModelSpec.of_network(LightBSR(), "teacher", 1)
    teacher = Model(spec, {}, np.zeros(prior.BASIS_SHAPE))
    with pytest.raises(UserError, match="method is LightBSR, not KDSR"):
        setup.check_teacher(TrainingConfig.from_flags(config).model, teacher, "it")


def test_kdsr_teacher_needs_the_truth() -> None:
    model = Model(
        ModelSpec.of_network(KDSR(), "teacher", 1), {}, np.zeros(prior.BASIS_SHAPE)
    )
    with pytest.raises(UserError, match="needs the HR image"):
        model.restore(np.zeros((1, 8, 8, 3)))


def test_reconstruction_on_the_methods_scale() -> None:
    sr, hr = np.full((1, 2, 2, 3), 0.5), np.full((1, 2, 2, 3), 255)
    assert float(losses.reconstruction(sr, hr)) == pytest.approx(127.5)
    assert float(losses.reconstruction(sr, hr, pixel_range=1)) == pytest.approx(0.5)
