"""Training steps: what learns when, and N devices against one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.goldens import initialise

from lightbsr_jax.imaging import prior
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.registry import METHODS
from lightbsr_jax.training import losses, steps, updates
from lightbsr_jax.training import state as states

# A larger eps than the paper's: the gradient of a bias before BatchNorm is zero but for
# rounding, and Adam would turn that rounding into full-size steps.
ADAM = optax.scale_by_adam(b1=0.9, b2=0.99, eps=1e-3)
NETWORK = LightBSR(groups=1, blocks=2, axis_name=updates.AXIS)
RATE = optax.constant_schedule(1e-3)
BASIS = prior.make_basis(0)


def mapped(function: Any, devices: int) -> Any:
    return jax.pmap(
        function,
        updates.AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        devices=jax.devices()[:devices],
    )


def learner(**options: Any) -> updates.Learner:
    return updates.Learner(METHODS["lightbsr"], NETWORK, ADAM, RATE, **options)


def teacher_updates() -> list[updates.Update]:
    make = partial(
        updates.contrastive_update, learner(), momentum=0.999, temperature=0.07
    )
    return [make(stage=stage) for stage in (1, 2)]


def student_updates() -> list[updates.Update]:
    make = partial(
        updates.distillation_update, learner(), temperature=0.15, l1_weight=0.1
    )
    return [make(stage=stage) for stage in (1, 2)]


def fresh_teacher() -> states.ContrastiveState:
    network_key, queue_key = jax.random.split(jax.random.key(0))
    variables = initialise(NETWORK, network_key, prior_channels=18)
    return states.fresh_contrastive_state(variables, ADAM, queue_key, queue_size=16)


def fresh_student() -> tuple[states.TrainState, dict[str, Any]]:
    teacher = fresh_teacher()
    variables = {"params": teacher.params, "batch_stats": teacher.batch_stats}
    fresh = initialise(NETWORK, jax.random.key(1))
    inherited = METHODS["lightbsr"].inherited
    student = states.inherit(fresh, variables, inherited)
    return states.fresh_train_state(student, ADAM), variables


def run(role: str, devices: int) -> tuple[list[dict[str, float]], list[Any]]:
    """Metrics and states of six steps, the first three in stage 1, batch 4."""
    if role == "teacher":
        stages, state, teacher = teacher_updates(), fresh_teacher(), None
    else:
        stages = student_updates()
        state, teacher = fresh_student()
    stages = [
        mapped(steps.degrading_step(update, setting=2, scale=4, width_max=4.0), devices)
        for update in stages
    ]
    constants = steps.Constants(3, BASIS, teacher)
    crops = np.random.default_rng(0).integers(
        256, size=(6, 4, 2 if role == "teacher" else 1, 32, 32, 3), dtype=np.uint8
    )
    metrics, history = [], [state]
    for step in range(6):
        shares = crops[step].reshape(devices, -1, *crops.shape[2:])
        state, values = stages[step // 3](state, shares, constants)
        metrics.append({name: float(value) for name, value in values.items()})
        history.append(state)
    return metrics, history


@pytest.fixture(scope="module")
def teacher_run() -> tuple[list[dict[str, float]], list[Any]]:
    return run("teacher", 1)


@pytest.fixture(scope="module")
def student_run() -> tuple[list[dict[str, float]], list[Any]]:
    return run("student", 1)


def changed(before: Any, after: Any) -> bool:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(bool(jnp.any(a != b)) for a, b in pairs)


def learning(before: Any, after: Any) -> set[str]:
    """The modules whose parameters, moments or Adam count changed."""
    return {
        name
        for name in before.params
        if changed(before.params[name], after.params[name])
        or changed(before.opt_state[name], after.opt_state[name])
    }


def counting_step(state: Any, crops: jax.Array, fixed: Any) -> tuple[Any, Any]:
    """Adds the crops to the parameters; the loss is their square root."""
    state = state.replace(
        step=state.step + 1, params={"a": state.params["a"] + crops}, opt_state=crops
    )
    return state, {"loss": jnp.sqrt(crops)}


def test_update_that_is_not_finite_is_counted_and_not_made() -> None:
    step = jax.jit(steps.skip_nonfinite(counting_step, ema_decay=0.5))
    params = {"a": jnp.float32(1)}
    state = states.TrainState(jnp.int32(0), params, {}, jnp.float32(0))
    run = states.fresh_run(state, averaged=True)
    seen = []
    for crops in (2.0, -1.0, jnp.nan, 3.0, -1.0):
        run, metrics = step(run, crops, None)
        seen.append((int(metrics["skipped"]), int(metrics["skipped_in_a_row"])))
    assert seen == [(0, 0), (1, 1), (2, 2), (2, 0), (3, 1)]
    assert (int(run.state.step), float(run.state.opt_state)) == (5, 3)
    assert float(run.state.params["a"]) == 1 + 2 + 3
    # The average goes 2/11 of its way at step 1, half of it from step 8 on.
    after_one = 1 * 2 / 11 + 3 * 9 / 11
    assert float(run.average["a"]) == pytest.approx(after_one * 5 / 14 + 6 * 9 / 14)


@pytest.mark.parametrize(("limit", "step"), [(0, 5), (2.5, 2.5), (7, 5)])
def test_gradients_are_clipped_by_their_common_norm(limit: float, step: float) -> None:
    """3 in one module and 4 in another: a norm of 5, which is what is logged."""
    clipping = learner(gradient_clip=limit)._replace(
        optimizer=optax.identity(), learning_rate=optax.constant_schedule(1.0)
    )
    zeros = {"a": {"w": jnp.zeros(1)}, "b": jnp.zeros(2), "c": jnp.ones(1)}
    state = states.TrainState(
        step=jnp.int32(0),
        params=zeros,
        batch_stats={},
        opt_state=states.fresh_optimizer(optax.identity(), zeros),
    )
    gradients = {"a": {"w": jnp.array([3.0])}, "b": jnp.array([0.0, 4.0])}

    def update(gradients: Any) -> Any:
        params, _, norm = updates.apply_gradients(clipping, state, gradients)
        return params, norm

    one = jax.tree.map(lambda x: x[None], gradients)
    params, norm = jax.vmap(update, axis_name=updates.AXIS)(one)
    assert norm == pytest.approx(5)
    assert params["a"]["w"] == pytest.approx(-3 * step / 5, rel=1e-5)
    assert params["b"][0] == pytest.approx([0, -4 * step / 5], rel=1e-5)
    assert params["c"] == 1


@pytest.mark.parametrize("kind", losses.PIXEL_LOSSES)
def test_microbatches_give_the_numbers_of_one(kind: str) -> None:
    """L_SR and its gradients, of a batch of 4 in one, two and four microbatches."""
    rng = np.random.default_rng(0)
    variables = fresh_student()[1]
    images = (
        rng.random((4, 6, 5, 3), np.float32),
        rng.integers(256, size=(4, 24, 20, 3), dtype=np.uint8),
    )
    modulators = (
        rng.random((4, 48), np.float32),
        rng.random((4, 6, 5, 8), np.float32),
    )

    def gradients(count: int) -> Any:
        loss = updates.reconstruction(learner(microbatches=count, pixel_loss=kind))

        def doubled(params: Any, modulators: Any) -> jax.Array:
            return 2 * loss(params, modulators, images, None)[0]

        gradient = jax.jit(jax.value_and_grad(doubled, argnums=(0, 1)))
        return gradient(variables["params"], modulators)

    whole = gradients(1)
    sr = NETWORK.apply(
        {"params": variables["params"]}, images[0], *modulators, method="upscale"
    )
    expected = 2 * losses.reconstruction(sr, images[1], kind=kind)
    np.testing.assert_allclose(whole[0], expected, rtol=1e-5)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(whole[1][1]))
    for count in (2, 4):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
            gradients(count),
            whole,
        )


def test_teacher_learns_by_stage(teacher_run) -> None:
    _, history = teacher_run
    assert learning(history[2], history[3]) == {"estimator", "projector"}
    everything = {"estimator", "projector", "converter", "restorer"}
    assert learning(history[3], history[4]) == everything


def test_student_learns_by_stage(student_run) -> None:
    _, history = student_run
    assert learning(history[2], history[3]) == {"estimator", "converter"}
    assert learning(history[3], history[4]) == {"estimator", "converter", "restorer"}


def test_adam_counts_from_a_modules_first_gradient(teacher_run, student_run) -> None:
    counts = {k: int(v.count) for k, v in teacher_run[1][-1].opt_state.items()}
    assert counts == {"estimator": 6, "projector": 6, "converter": 3, "restorer": 3}
    counts = {k: int(v.count) for k, v in student_run[1][-1].opt_state.items()}
    assert counts == {"estimator": 6, "converter": 6, "restorer": 3}


def test_momentum_branch_follows_slowly(teacher_run) -> None:
    """theta_M <- 0.999 theta_M + 0.001 theta_P, with theta_P from before the step."""
    _, history = teacher_run
    before, after = history[4], history[5]

    def expected(momentum: jax.Array, principal: jax.Array) -> np.ndarray:
        return 0.999 * np.float64(momentum) + 0.001 * np.float64(principal)

    principal = {name: before.params[name] for name in ("estimator", "projector")}
    wanted = jax.tree.map(expected, before.momentum_params, principal)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-8),
        after.momentum_params,
        wanted,
    )
    assert changed(after.momentum_batch_stats, after.batch_stats)


def test_queue_takes_one_crops_keys(teacher_run) -> None:
    _, history = teacher_run
    rows = np.any(np.asarray(history[0].queue != history[1].queue), axis=1)
    assert rows.tolist() == [True] * 4 + [False] * 12
    assert [int(s.queue_pointer) for s in history] == [0, 4, 8, 12, 0, 4, 8]
    np.testing.assert_allclose(np.linalg.norm(history[6].queue, axis=1), 1, rtol=1e-5)


def test_student_starts_as_its_teacher_but_for_the_first_convolution() -> None:
    student, teacher = fresh_student()
    for name in ("converter", "restorer"):
        assert not changed(student.params[name], teacher["params"][name])
    ours, theirs = student.params["estimator"], teacher["params"]["estimator"]
    assert ours["conv_0"]["kernel"].shape == (3, 3, 3, 32)
    assert theirs["conv_0"]["kernel"].shape == (3, 3, 21, 32)
    assert changed(ours["conv_0"]["bias"], theirs["conv_0"]["bias"])
    assert all(
        not changed(ours[name], theirs[name]) for name in ours if name != "conv_0"
    )
    assert not changed(student.batch_stats, teacher["batch_stats"])


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_devices_give_the_numbers_of_one(
    role: str, request: pytest.FixtureRequest
) -> None:
    """Two devices; test_processes.py has four."""
    one_metrics, one_history = request.getfixturevalue(f"{role}_run")
    metrics, history = run(role, 2)
    for one, several in zip(one_metrics, metrics, strict=True):
        assert several == pytest.approx(one, rel=1e-5)

    def same(one: jax.Array, several: jax.Array) -> None:
        np.testing.assert_allclose(several, one, rtol=1e-5, atol=1e-6)

    one, several = one_history[-1], history[-1]
    jax.tree.map(same, one.batch_stats, several.batch_stats)
    if role == "teacher":
        same(one.queue, several.queue)
        same(one.queue_pointer, several.queue_pointer)
        jax.tree.map(same, one.momentum_batch_stats, several.momentum_batch_stats)
