"""Initial weights of a run: given ones that fit, or bicubic interpolation."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import resize
from lightbsr_jax.models import state_dict
from lightbsr_jax.models.torch_files import write
from lightbsr_jax.spec import ModelSpec, RunSpec
from lightbsr_jax.training import initial

SMALLEST = {
    "lightbsr": {"groups": 1, "blocks": 1},
    "kdsr": {"blocks": 1, "residual_blocks": 1},
    "dasr": {"groups": 1, "blocks": 1},
}


def variables(scale: int = 4, seed: int = 0, **config: object) -> dict:
    """Random ones of the smallest network; drawing fresh ones takes longer."""
    shapes = spec(scale, **config).shapes()
    del shapes["basis"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: rng.uniform(0.01, 0.1, x.shape).astype(x.dtype), shapes
    )


def spec(scale: int, **config: object) -> ModelSpec:
    config = {"role": "student", "setting": 1, "scale": scale} | config
    network = SMALLEST[config.get("method", "lightbsr")]
    return ModelSpec.from_config({"network": network} | config)


def leaves(tree: dict) -> dict[str, np.ndarray]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def test_all_of_the_same_network_is_taken() -> None:
    fresh, given = variables(), variables(seed=1)
    fitted = initial.fit(fresh, given)
    assert len(fitted.taken) == fitted.tensors == len(leaves(fresh))
    for name, leaf in leaves(fitted.variables).items():
        np.testing.assert_array_equal(leaf, leaves(given)[name])


def test_of_another_scale_all_but_the_upscaler_is_taken() -> None:
    fresh, given = variables(scale=3), variables(scale=4, seed=1)
    fitted = initial.fit(fresh, given)
    ours, theirs = leaves(fitted.variables), leaves(given)
    different = [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert {name.split("'")[5] for name in different} == {"upscale_0"}
    assert fitted.tensors - len(fitted.taken) == 2  # its kernel and bias
    for name in different:
        np.testing.assert_array_equal(ours[name], leaves(fresh)[name])


def test_of_another_setting_all_but_the_estimators_input_is_taken() -> None:
    fresh = variables(role="teacher", setting=1)
    given = variables(role="teacher", setting=2, seed=1)
    fitted = initial.fit(fresh, given)
    assert fitted.tensors - len(fitted.taken) == 1
    assert initial.ESTIMATOR_INPUT not in fitted.taken


def of_blocks(blocks: int) -> dict[str, dict[str, int]]:
    return {"network": {"groups": 2, "blocks": blocks}}


def blocks_of(tree: dict) -> dict:
    return tree["params"]["restorer"]["body"]["groups"]["blocks"]


def test_more_blocks_than_the_given_weights_have_change_nothing_at_first() -> None:
    few, many = (spec(4, **of_blocks(n)).make_network() for n in (2, 5))
    given, fresh = variables(seed=1, **of_blocks(2)), variables(seed=2, **of_blocks(5))
    fitted = initial.fit(fresh, given)
    assert len(fitted.taken) == fitted.tensors
    lr = np.random.default_rng(0).random((1, 8, 8, 3)).astype(np.float32)
    before = few.apply(given, lr).sr
    after = many.apply(fitted.variables, lr).sr
    np.testing.assert_allclose(before, after, atol=1e-6)
    fresh_output = many.apply(fresh, lr).sr
    assert np.abs(before - fresh_output).max() > 0.01
    scales = blocks_of(fitted.variables)["mixing"]["layer_scale"]
    assert [bool(scales[:, block].all()) for block in range(5)] == [
        *(True, False, False),
        *(True, False),
    ]


def test_fewer_blocks_than_the_given_weights_have_are_evenly_spaced() -> None:
    given, fresh = variables(seed=1, **of_blocks(4)), variables(seed=2, **of_blocks(2))
    fitted = initial.fit(fresh, given)
    assert len(fitted.taken) == fitted.tensors
    jax.tree.map(
        lambda kept, x: np.testing.assert_array_equal(kept, x[:, [0, 2]]),
        blocks_of(fitted.variables),
        blocks_of(given),
    )


def test_nothing_fits() -> None:
    with pytest.raises(UserError, match="none of its 1 tensors has the path"):
        initial.fit(variables(), {"params": {"other": np.zeros(3)}})


@pytest.mark.parametrize(
    ("method", "scale"),
    [("lightbsr", 2), ("lightbsr", 3), ("lightbsr", 4), ("kdsr", 4), ("dasr", 4)],
)
def test_a_network_that_starts_bicubic_is_bicubic(method: str, scale: int) -> None:
    role = "network" if method == "dasr" else "student"
    given = variables(scale, method=method, role=role)
    start = initial.bicubic(given, scale)
    network = spec(scale, method=method, role=role).make_network()
    lr = np.random.default_rng(0).uniform(size=(1, 10, 12, 3)).astype(np.float32)
    ours = jax.jit(network.apply)(start, lr).sr
    bicubic = resize.bicubic(lr, (10 * scale, 12 * scale))
    inside = np.s_[:, 3 * scale : -3 * scale, 3 * scale : -3 * scale]
    np.testing.assert_allclose(ours[inside], bicubic[inside], rtol=0, atol=1e-5)
    before = given["params"]["restorer"]["head"]["kernel"]
    after = start["params"]["restorer"]["head"]["kernel"]
    np.testing.assert_array_equal(before[..., 3:], after[..., 3:])
    assert not np.allclose(before, after)


def test_a_network_that_is_too_thin_to_start_bicubic() -> None:
    for scale, fewest in ((2, 12), (3, 12), (4, 27)):
        enough, thin = (
            variables(scale, method="kdsr", network={**SMALLEST["kdsr"], "features": n})
            for n in (fewest, fewest - 1)
        )
        initial.bicubic(enough, scale)
        with pytest.raises(UserError, match=f"start=bicubic .*: use {fewest} or more"):
            initial.bicubic(thin, scale)


def test_the_references_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    config = {"role": "student", "setting": 1, "scale": 2}
    config["network"] = {"groups": 8, "blocks": 8}
    tensors = state_dict.blank(RunSpec.from_config(config))
    rng = np.random.default_rng(0)
    name = "G.head.0.weight"
    tensors[name] = rng.normal(size=tensors[name].shape).astype(np.float32)
    wrapped = {f"module.{key}": torch.from_numpy(t) for key, t in tensors.items()}
    torch.save({"params_ema": wrapped}, tmp_path / "x.pth")
    given = initial.load(str(tmp_path / "x.pth"))
    head = given["params"]["restorer"]["head"]["kernel"]
    np.testing.assert_array_equal(head, tensors[name].transpose(2, 3, 1, 0))
    write(tmp_path / "y.safetensors", tensors)
    again = initial.load(str(tmp_path / "y.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, again, given)


def test_what_is_no_weights(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors")
    for source in ("nothing", str(tmp_path), str(tmp_path / "a.safetensors")):
        with pytest.raises(UserError, match="config.init: "):
            initial.load(source)
