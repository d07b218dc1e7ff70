from typing import Any

import jax
import numpy as np
import optax
import pytest
from helpers.goldens import (
    random_like,
    seeded_teacher,
    teacher_tensors,
    variable_shapes,
)

from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.network import RGB_MEAN
from lightbsr_jax.methods.torch_layers import LONE, MOMENTUM, PRINCIPAL
from lightbsr_jax.models import torch_names
from lightbsr_jax.training.state import CONTRASTED

Tree = dict[str, Any]

NETWORK = LightBSR(groups=3, blocks=2)


@pytest.fixture(scope="module")
def student() -> Tree:
    return random_like(variable_shapes(NETWORK), seed=0)


@pytest.fixture(scope="module")
def teacher() -> Tree:
    return random_like(variable_shapes(NETWORK, 15), seed=1)


@pytest.fixture(scope="module")
def momentum(teacher: Tree) -> Tree:
    branch = {name: teacher["params"][name] for name in CONTRASTED}
    return random_like({**teacher, "params": branch}, seed=2)


@pytest.mark.parametrize(
    ("variables", "estimator"),
    [("student", LONE), ("teacher", PRINCIPAL), ("momentum", MOMENTUM)],
)
def test_round_trip_is_exact(
    variables: str, estimator: str, request: pytest.FixtureRequest
) -> None:
    tree = request.getfixturevalue(variables)
    tensors = torch_names.to_torch(tree, NETWORK, estimator)
    assert sum(t.size for t in tensors.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(tree)
    )
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    back = torch_names.from_torch(tensors, shapes, NETWORK, estimator)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, back, tree)


def test_branches_share_no_name(teacher: Tree, momentum: Tree) -> None:
    principal = torch_names.to_torch(teacher, NETWORK, PRINCIPAL)
    other = torch_names.to_torch(momentum, NETWORK, MOMENTUM)
    assert not set(principal) & set(other)


def test_places(student: Tree) -> None:
    """Groups and blocks by their numbers, and torch's layouts."""
    tensors = torch_names.to_torch(student, NETWORK, LONE)
    params = student["params"]
    groups = params["restorer"]["body"]["groups"]
    converters, mixing = groups["channel_converter"], groups["blocks"]["mixing"]
    expected = {
        "E.E.6.weight": params["estimator"]["conv_2"]["kernel"].transpose(3, 2, 0, 1),
        "E.E.7.running_var": student["batch_stats"]["estimator"]["norm_2"]["var"],
        "G.compress.0.weight": params["converter"]["channel"]["kernel"].T,
        "G.body.2.ca_change.avgafter.2.weight": converters["reduce"]["kernel"][2].T,
        "G.body.2.body.1.gamma": mixing["layer_scale"][2, 1],
        "G.body.1.body.0.pwconv1.bias": mixing["expand"]["bias"][1, 0],
        "G.body.1.body.2.pwconv2.weight": groups["convnext"]["reduce"]["kernel"][1].T,
        "G.body.0.body.3.bias": groups["conv"]["bias"][0],
        "G.body.3.bias": params["restorer"]["body"]["conv"]["bias"],
    }
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)
    assert tensors["G.body.0.body.1.dwconv.weight"].shape == (64, 1, 7, 7)


def test_names_are_the_references(goldens: np.lib.npyio.NpzFile) -> None:
    network = LightBSR()
    student = jax.tree.map(
        lambda leaf: np.empty(leaf.shape, np.float32), variable_shapes(network)
    )
    tensors = torch_names.to_torch(student, network, LONE)
    names = sorted({**torch_names.mean_shift(), **tensors})
    assert names == sorted(goldens["trace/student_keys"].tolist())

    teacher = seeded_teacher(network, optax.identity(), 103, prior_channels=15)
    names = sorted(teacher_tensors(teacher, network))
    assert names == sorted(goldens["trace/teacher_keys"].tolist())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("E.E.0.weight", (3, 3, 3, 32)),
        ("G.body.1.body.1.pwconv1.weight", (64, 128)),
        ("G.tail.1.bias", (3,)),
    ],
)
def test_misshapen_tensor(student: Tree, name: str, wanted: tuple[int, ...]) -> None:
    tensors = torch_names.to_torch(student, NETWORK, LONE)
    tensors[name] = tensors[name][:-1]
    with pytest.raises(ValueError) as caught:
        torch_names.from_torch(tensors, student, NETWORK, LONE)
    assert name in str(caught.value)
    assert f"not {wanted}" in str(caught.value)


def test_mean_shift() -> None:
    """Two 1 x 1 convolutions: one takes the mean of RGB away, the other adds it."""
    tensors = torch_names.mean_shift()
    assert sum(tensor.size for tensor in tensors.values()) == 24
    pixel = np.array([0.1, 0.5, 0.9], np.float32)
    for layer, sign in (("sub_mean", -1), ("add_mean", 1)):
        weight, bias = (tensors[f"G.{layer}.{part}"] for part in ("weight", "bias"))
        assert weight.shape == (3, 3, 1, 1)
        shifted = weight[..., 0, 0] @ pixel + bias
        np.testing.assert_allclose(shifted, pixel + sign * np.array(RGB_MEAN), 1e-6)
