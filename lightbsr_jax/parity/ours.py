"""Our side of a comparison: the quantities of `reference`, by the same names.

Each function makes the results of one part of a case, in torch's layouts: images
[..., C, H, W], tensors by the reference's names. A module's output has a leading axis
for the calls of the module, which in training sees one crop index after the other.
Numbers are float32, but for what a trace of training leaves behind, and for gradients
and traces of networks with LeakyReLUs.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax import Array

from lightbsr_jax.imaging import degradation, kernels, metrics, resize, settings
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.interop import convert
from lightbsr_jax.methods import registry
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.torch_layers import LONE, MOMENTUM
from lightbsr_jax.models import state_dict, torch_names
from lightbsr_jax.parity.case import Arrays, Case
from lightbsr_jax.spec import RunSpec
from lightbsr_jax.training import contrast, losses, updates
from lightbsr_jax.training.parallel import on_one_device
from lightbsr_jax.training.state import (
    CONTRASTED,
    ContrastiveState,
    State,
    Tree,
    fresh_optimizer,
)
from lightbsr_jax.typed import ArrayLike, apply

Updates = Mapping[int, updates.Update]  # by stage

# As published.
MOMENTUM_WEIGHT = 0.999
CONTRAST_TEMPERATURE = 0.07
DISTILLATION_TEMPERATURE = 0.15
L1_WEIGHT = 0.1

_CHANNELS_LAST = (".norm", ".pwconv1", ".pwconv2")  # modules whose torch outputs are


def everything(case: Case) -> Arrays:
    """All parts; products in float32 where a GPU would take TF32, a TPU bfloat16."""
    results: Arrays = {}
    with jax.default_matmul_precision("highest"):
        for part in (degradations, scores, distillation, images):
            results |= part(case)
        for role in case.roles:
            by_stage = make_updates(case, role)
            results |= evaluation(case, role)
            results |= training(case, role)
            results |= step(case, role, by_stage)
            wide = make_updates(case, role, dtype=np.float64, backend="cpu")
            results |= trace_tensors(case, role, wide)
            if isinstance(case.network, LightBSR):
                results |= trace_losses(case, role, by_stage)
            else:
                results |= wide_gradients(case, role, wide)
    return results


def degradations(case: Case) -> Arrays:
    given = case.below("degradation")
    hr = given["hr"]
    height, width = hr.shape[-3:-1]
    anisotropic = kernels.anisotropic(given["l1"], given["l2"], given["theta"])
    blurred = degradation.blur(hr.astype(np.float32), anisotropic)
    small = (height // case.scale, width // case.scale)
    large = (height * case.scale, width * case.scale)

    results = {
        "isotropic": kernels.isotropic(given["sigma"]),
        "anisotropic": anisotropic,
        "blurred": _channels_first(blurred),
        "down": _channels_first(_flat(resize.bicubic(blurred, small))),
        "up": _channels_first(_flat(resize.bicubic(hr, large))),
    }
    if not isinstance(case.network, LightBSR):
        return _named("degradation", results)
    drawn = _random_degradation(case, given["uniform"])
    noise = given["noise"] if case.setting == 2 else None
    results |= {
        "lr": _channels_first(
            degradation.synthesise(hr, drawn, noise, scale=case.scale)
        ),
        "kernel": drawn.kernel,
        "noise_level": drawn.noise_level,
        "prior": settings.of(case.setting).prior_vector(drawn, case.arrays["basis"]),
    }
    return _named("degradation", results)


def scores(case: Case) -> Arrays:
    first, second = case.arrays["metrics/first"], case.arrays["metrics/second"]
    return {
        "metrics/psnr": metrics.psnr_y(first, second, border=case.scale),
        "metrics/ssim": metrics.ssim_y(first, second, border=case.scale),
    }


def distillation(case: Case) -> Arrays:
    """LightBSR's losses alone; those of other methods are seen in their steps."""
    if not isinstance(case.network, LightBSR):
        return {}
    given: Any = case.below("distillation")
    channel = losses.channel_distillation(
        given["channel_teacher"],
        given["channel_student"],
        temperature=DISTILLATION_TEMPERATURE,
        l1_weight=L1_WEIGHT,
    )
    spatial = losses.spatial_distillation(
        given["spatial_teacher"], given["spatial_student"]
    )
    return _named("distillation", {"channel": channel, "spatial": spatial})


def evaluation(case: Case, role: str) -> Arrays:
    """Every module's output in evaluation mode."""
    given: Any = case.below("evaluation")
    batch = updates.Batch(given["lr"], given["prior"], given.get("hr"))
    seen = _seen(case, role, batch)
    variables = _variables(case.state(role))
    outputs = _outputs(case, role, variables, given["lr"], seen)
    return _named(f"{role}/evaluation", outputs)


def training(case: Case, role: str) -> Arrays:
    """Every module's output in training mode."""
    state = case.state(role)
    variables = _variables(state)
    batch: Any = _batches(case)[0]
    seen = _seen(case, role, batch)
    lr = np.moveaxis(batch.lr, 1, 0)  # [D, B, h, w, 3]
    if not isinstance(state, ContrastiveState):
        outputs = _outputs(case, role, variables, lr[:1], seen)
        return _named(f"{role}/training", outputs)
    pairing = contrast.pairing(registry.of(case.meta).contrasts, len(lr))
    followed: Any = optax.incremental_update(
        {name: state.params[name] for name in CONTRASTED},
        state.momentum_params,
        1 - MOMENTUM_WEIGHT,
    )
    momentum = {
        "params": {**state.params, **followed},
        "batch_stats": state.momentum_batch_stats,
    }
    outputs = _outputs(case, role, momentum, lr[pairing.keys], seen, MOMENTUM)
    outputs |= _outputs(case, role, variables, lr[pairing.queries], seen)
    return _named(f"{role}/training", outputs)


def make_updates(
    case: Case, role: str, *, dtype: type = np.float32, backend: str | None = None
) -> Updates:
    """Both stages' updates, on the backend's first device; their first call compiles.

    The backend is the default one if it is None.
    """
    network = case.network.clone(axis_name=updates.AXIS, dtype=dtype)
    device = jax.local_devices(backend=backend)[0]
    rate = optax.constant_schedule(case.meta["learning_rate"])
    learner = updates.Learner(registry.of(case.meta), network, _ADAM, rate)
    if role == "teacher" and learner.method.contrasts is None:
        update = on_one_device(updates.supervised_update(learner), device)
        return {1: update, 2: update}  # it has no stages
    if role != "student":
        make = partial(
            updates.contrastive_update,
            learner,
            momentum=MOMENTUM_WEIGHT,
            temperature=CONTRAST_TEMPERATURE,
        )
    else:
        make = partial(
            updates.distillation_update,
            learner,
            temperature=DISTILLATION_TEMPERATURE,
            l1_weight=L1_WEIGHT if isinstance(network, LightBSR) else 0.0,
        )
    return {stage: on_one_device(make(stage=stage), device) for stage in (1, 2)}


def step(case: Case, role: str, by_stage: Updates) -> Arrays:
    """Losses, gradients and new buffers of a step of the second stage."""
    state, batches, teacher = _start(case, role, np.float32)
    state, measured = by_stage[2](state, batches[0], teacher)
    buffers = {
        name: tensor
        for name, tensor in _tensors(state, case, role).items()
        if any(part in name for part in ("running_", "encoder_k", "queue"))
    }
    results = _named(f"{role}/loss", _losses(measured))
    if isinstance(case.network, LightBSR):
        results |= _named(f"{role}/gradient", _gradients(case, role, state))
    return results | _named(f"{role}/after", buffers)


def wide_gradients(case: Case, role: str, by_stage: Updates) -> Arrays:
    """Gradients of a step of the second stage, in float64.

    Of networks full of LeakyReLUs: a value near zero that rounding moves to the other
    side changes them by more than rounding.
    """
    state, batches, teacher = _start(case, role, np.float64)
    with jax.enable_x64(True):
        state, _ = by_stage[2](state, batches[0], teacher)
    return _named(f"{role}/gradient64", _gradients(case, role, state))


def _gradients(case: Case, role: str, state: State) -> Arrays:
    """Those of the last step, by the reference's names."""
    gradients = {name: gradient for name, (_, gradient) in state.opt_state.items()}
    estimator = registry.of(case.meta).roles[role]
    return torch_names.to_torch({"params": gradients}, case.network, estimator)


def trace_losses(case: Case, role: str, by_stage: Updates) -> Arrays:
    """The losses of training across the boundary of the stages."""
    _, trace = _trace(case, by_stage, *_start(case, role, np.float32))
    return _named(f"{role}/trace/loss", trace)


def trace_tensors(case: Case, role: str, by_stage: Updates) -> Arrays:
    """All tensors after that training in float64, which a TPU lacks: on the CPU."""
    start = _start(case, role, np.float64)
    with jax.enable_x64(True):
        state, trace = _trace(case, by_stage, *start)
    tensors = {
        name: tensor
        for name, tensor in _tensors(state, case, role).items()
        if "_mean." not in name  # what never learns
    }
    results = _named(f"{role}/trace/tensor", tensors)
    if not isinstance(case.network, LightBSR):  # see `wide_gradients`
        results |= _named(f"{role}/trace/loss64", trace)
    return results


def images(case: Case) -> Arrays:
    """Photographs degraded, restored by the student, or DASR, and scored."""
    restore = restorer(case, jnp.float32)
    results: Arrays = {}
    for index in range(len(case.meta["images"])):
        sr, hr = restore_image(case, index, restore)
        border = case.scale
        results |= _named(
            f"images/{index}",
            {
                # What the case gives to both programs is what this one makes of HR.
                "lr": _channels_first(case.arrays[f"images/{index}/lr"]),
                "psnr": metrics.psnr_y(sr, hr, border=border)[0],
                "ssim": metrics.ssim_y(sr, hr, border=border)[0],
                "sr": _channels_first(sr[0]).astype(np.uint8),
            },
        )
    return results


def restorer(case: Case, dtype: type) -> Callable[[ArrayLike], Array]:
    """The function from LR to SR images in 0..255 of what needs no more, in `dtype`."""
    network = case.network.clone(dtype=dtype)
    restore = jax.jit(lambda variables, lr: 255 * apply(network, variables, lr).sr)
    return partial(restore, _variables(case.state(case.roles[-1])))


def restore_image(
    case: Case, index: int, restore: Callable[[ArrayLike], Array]
) -> tuple[Array, np.ndarray]:
    """An image's SR, rounded, and its HR, both [1, H, W, 3] in 0..255."""
    given = case.below(f"images/{index}")
    lr = given["lr"][None].astype(np.float32) / 255
    return metrics.quantise(restore(lr)), given["hr"][None]


def _random_degradation(case: Case, uniform: np.ndarray) -> Degradation:
    """The reference's random degradations, given its uniform random numbers."""
    low, high = np.float32(0.2), np.float32(4.0)
    if case.setting == 1:
        sigma = uniform[0] * (high - low) + low
        return Degradation(kernels.isotropic(sigma), jnp.zeros(len(sigma)))
    theta, l1, l2, level = uniform
    kernel = kernels.anisotropic(
        l1 * (high - low) + low, l2 * (high - low) + low, theta * np.float32(np.pi)
    )
    return Degradation(kernel, jnp.asarray(level * np.float32(25)))


def _recording_adam() -> optax.GradientTransformation:
    """Adam, whose state also holds the latest gradient."""
    adam = optax.scale_by_adam(b1=0.9, b2=0.99, eps=1e-8)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        step, state = adam.update(updates, state[0], params)
        return step, (state, updates)

    return optax.GradientTransformation(
        lambda params: (adam.init(params), jax.tree.map(jnp.zeros_like, params)),
        update,
    )


_ADAM = _recording_adam()


def _start(
    case: Case, role: str, dtype: type
) -> tuple[State, list[updates.Batch], Tree | None]:
    """The state before training, the steps' batches and a student's teacher.

    On the host, floats of type `dtype`.
    """
    state: Any = case.state(role)
    state = state.replace(opt_state=fresh_optimizer(_ADAM, state.params))
    batches = _batches(case)
    teacher = _variables(case.state("teacher")) if role == "student" else None

    def cast(x: Any) -> np.ndarray:
        x = np.asarray(x)
        return x.astype(dtype) if x.dtype == np.float32 else x

    return jax.tree.map(cast, (state, batches, teacher))


def _trace(
    case: Case,
    by_stage: Updates,
    state: State,
    batches: list[updates.Batch],
    teacher: Tree | None,
) -> tuple[State, dict[str, list[Array]]]:
    """The state after all steps, and the losses of each."""
    trace: dict[str, list[Array]] = {}
    for stage, batch in zip(case.meta["stages"], batches, strict=True):
        state, measured = by_stage[stage](state, batch, teacher)
        for name, loss in _losses(measured).items():
            trace.setdefault(name, []).append(loss)
    return state, trace


def _batches(case: Case) -> list[updates.Batch]:
    """Those of the steps of training."""
    given = case.below("training")
    return [
        updates.Batch(*(given[name][index] for name in updates.Batch._fields))
        for index in range(len(case.meta["stages"]))
    ]


def _seen(case: Case, role: str, batch: updates.Batch) -> ArrayLike | None:
    """What the role's estimator sees beside LR images."""
    if role != "teacher":
        return None
    seen = updates.privileged(registry.of(case.meta), batch)
    return np.asarray(seen, np.float32)


def _losses(measured: updates.Metrics) -> updates.Metrics:
    return {n: value for n, value in measured.items() if n != "gradient_norm"}


def _tensors(state: Any, case: Case, role: str) -> Arrays:
    """A training state by the reference's names."""
    run = RunSpec.from_config(case.config(role))
    return state_dict.to_tensors(convert.from_state(state, run, {}))


def _variables(state: State) -> Tree:
    return {"params": state.params, "batch_stats": state.batch_stats}


def _outputs(
    case: Case,
    role: str,
    variables: Tree,
    lr: ArrayLike,
    seen: ArrayLike | None,
    estimator: str | None = None,
) -> Arrays:
    """Every module's output by the reference's names; of MOMENTUM, its branch alone.

    In evaluation mode lr is [B, h, w, 3], in training mode [D, B, h, w, 3].
    """
    network, method = case.network, registry.of(case.meta)
    if estimator is None:
        estimator = method.roles[role]
    visits = tuple(range(len(lr))) if lr.ndim == 5 else None

    def visit(module: BlindNetwork, lr: Array, seen: Array | None) -> None:
        idr = module.encode(lr, seen, visits=visits)
        if role in method.projecting:
            module.project(idr.reshape(-1, *idr.shape[-3:]))
        if visits is not None:
            lr, idr = lr[0], idr[0]
        if estimator != MOMENTUM:
            module.restore(lr, idr)

    @jax.jit
    def capture(variables: Tree, lr: Array, seen: Array | None) -> Tree:
        new: Any
        _, new = network.apply(
            variables,
            lr,
            seen,
            method=visit,
            capture_intermediates=True,
            mutable=["batch_stats", "intermediates"],
        )
        return new["intermediates"]

    captured = jax.device_get(capture(variables, lr, seen))
    flat: dict[Any, Any] = flatten_dict(captured)
    values = {"/".join(path[:-1]): value[0] for path, value in flat.items()}
    batch = lr.shape[-4]
    _unfold(values, variables["params"])
    outputs = {}
    for name, value in _by_name(values, network, estimator):
        own = value.shape[-3:] if value.ndim >= 4 else value.shape[-1:]
        value = value.reshape(-1, batch, *own)  # calls first
        if len(own) == 3 and not name.endswith(_CHANNELS_LAST):
            value = _channels_first(value)
        outputs[name] = value
    return outputs


def _unfold(values: dict[str, Any], params: Tree) -> None:
    """What our modules leave to one another, put back where the reference has it.

    LayerNorm leaves its affine to the next layer, and the layer scale is a part of the
    layer before.
    """

    def along_pixels(x: np.ndarray) -> np.ndarray:
        return x[..., None, None, None, :]

    for path, value in values.items():
        if path.endswith("/norm"):
            x, (scale, bias) = value
            values[path] = x * along_pixels(scale) + along_pixels(bias)
    for path, scale in flatten_dict(params, sep="/").items():
        module, _, name = path.rpartition("/")
        reduce = f"{module}/reduce"
        if name == "layer_scale" and reduce in values:
            values[reduce] = values[reduce] / along_pixels(np.asarray(scale))


def _by_name(
    values: Mapping[str, Any], network: BlindNetwork, estimator: str
) -> Iterator[tuple[str, np.ndarray]]:
    """The outputs of our modules, by path, as those of the reference's, by name."""
    body = "restorer/body/groups"
    for path, names in torch_names.layers(network, estimator).items():
        # The layer scale is no module of the reference's.
        if path in values and path not in (f"{body}/blocks/mixing", f"{body}/convnext"):
            for index in np.ndindex(names.shape):
                yield str(names[index]), values[path][index]

    if not isinstance(network, LightBSR):  # layers, and the whole
        if estimator != MOMENTUM:
            yield "G", values["restorer"] * network.IMAGE_RANGE
        return
    if estimator == LONE:
        yield "E", values["estimator"]
    else:
        yield f"{estimator[:-1]}/0", values["estimator"]
        yield f"{estimator[:-1]}/1", values["projector"]
    if estimator == MOMENTUM:
        return
    for index, value in enumerate((values["restorer"], *values["converter"])):
        yield f"G/{index}", value
    groups, _ = values[body]
    blocks, _ = values[f"{body}/blocks"]
    channel = values[f"{body}/blocks/channel"]
    both = np.concatenate([values[f"{body}/blocks/spatial"], channel], axis=-1)
    convnext = blocks[:, -1] + values[f"{body}/convnext"]
    for g in range(network.groups):
        group = f"G.body.{g}"
        for index, value in enumerate(groups):
            yield f"{group}/{index}", value[g]
        yield f"{group}.ca_change", values[f"{body}/channel_converter"][g]
        yield f"{group}.xk_change", values[f"{body}/spatial_converter"][g]
        yield f"{group}.body.{network.blocks}", convnext[g]
        for b in range(network.blocks):
            yield f"{group}.body.{b}", blocks[g, b]
            yield f"{group}.body.{b}.spatial_mixing", both[g, b]
            yield f"{group}.body.{b}.spatial_mixing.loc", channel[g, b]


def _channels_first(images: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(images), -1, -3)


def _flat(images: Array) -> Array:
    """[B, D, ...] as [B D, ...]."""
    return images.reshape(-1, *images.shape[2:])


def _named(prefix: str, values: Mapping[str, Any]) -> Arrays:
    return {f"{prefix}/{name}": np.asarray(value) for name, value in values.items()}
