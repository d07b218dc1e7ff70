"""Our side of `benchmarks.speed`: each function prepares work that can be repeated.

Weights are those of the reference's side.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from lightbsr_jax.compilation import inference_jit
from lightbsr_jax.imaging import metrics
from lightbsr_jax.imaging.kernels import KERNEL_SIZE
from lightbsr_jax.imaging.settings import SETTINGS
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.methods.dasr.network import DegradationAwareConv
from lightbsr_jax.methods.dynamic import DynamicDepthwise
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.lightbsr.recipe import RECIPE
from lightbsr_jax.methods.registry import METHODS
from lightbsr_jax.models.model import Model
from lightbsr_jax.networks.complexity import multiply_accumulates
from lightbsr_jax.parity import case
from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training import contrast, parallel, steps, updates
from lightbsr_jax.training.state import fresh_optimizer, fresh_run

SCALE, SETTING = 4, 2


class Work(NamedTuple):
    """Repeatable work, with the operations of the published network and bytes."""

    do: Callable[[], Any]  # does the work once, and waits until it is finished
    operations: float  # floating-point operations
    bytes: float  # of inputs and outputs


class Side:
    """Our program with the weights in `weights`, computing in `dtype`."""

    def __init__(self, weights: Path, dtype: str) -> None:
        jax.config.update("jax_default_matmul_precision", "highest")  # no TF32
        jax.config.update("jax_enable_compilation_cache", False)
        arrays = dict(np.load(weights))
        self.case = case.Case(json.loads(str(arrays.pop("meta"))), arrays)
        self.dtype = dtype
        self.random = np.random.default_rng(0)

    def peak_bytes(self) -> int | None:
        """Peak memory of the device; None if it does not count it."""
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    def restore(self, *, batch: int, size: int) -> Work:
        """Restores whole images by the student, or DASR."""
        student = self._student()
        network = student.network.clone(dtype=jnp.dtype(self.dtype))
        restored = inference_jit(lambda variables, lr: network.apply(variables, lr).sr)
        lr = jax.device_put(self._uniform(batch, size, size, 3))
        return _work(partial(restored, student.variables), lr)

    def modulate(self, *, batch: int, size: int, learns: bool) -> Work:
        """Applies the method's layer with a depthwise kernel per image."""
        layer = DynamicDepthwise()
        if self.case.meta["method"] == "dasr":
            layer = DegradationAwareConv()
        x = jax.device_put(self._uniform(batch, size, size, 64))
        idr = jax.device_put(self._uniform(batch, 64))
        params = layer.init(jax.random.key(0), x, idr)
        if not learns:
            return _work(inference_jit(layer.apply), params, x, idr)

        @jax.jit
        def step(gradient: Array, *arguments: Any) -> Any:
            result, backward = jax.vjp(layer.apply, *arguments)
            return result, backward(gradient)

        return _work(step, x, params, x, idr)

    def upscale(self, *, size: int) -> Work:
        """Upscales a picture by the exact upscaler, in tiles."""
        student = self._student()
        upscaler = Upscaler(student, precision=self.dtype)
        lr = self._uniform(1, size, size, 3)
        work = _work(student.restore, lr)
        return work._replace(do=lambda: upscaler(lr[0]))

    def train(
        self, *, role: str, stage: int, batch: int, crops: int, lr_crop: int
    ) -> Work:
        """Runs a step: degradations, losses, gradients and the optimiser."""
        optimizer = optax.scale_by_adam(**dataclasses.asdict(RECIPE.adam))
        rate = optax.constant_schedule(RECIPE.learning_rates[1])
        teacher = self.case.state("teacher")
        state, frozen = teacher, None
        if role == "student":
            state = self.case.state("student")
            frozen = {"params": teacher.params, "batch_stats": teacher.batch_stats}
        state = state.replace(opt_state=fresh_optimizer(optimizer, state.params))

        def step(**options: Any) -> Callable[..., Any]:
            network = LightBSR(
                SCALE, axis_name=updates.AXIS, dtype=self.dtype, **options
            )
            learner = updates.Learner(METHODS["lightbsr"], network, optimizer, rate)
            if role == "teacher":
                update = updates.contrastive_update(
                    learner,
                    stage=stage,
                    momentum=RECIPE.contrast.momentum,
                    temperature=RECIPE.contrast.temperature,
                )
            else:
                update = updates.distillation_update(
                    learner,
                    stage=stage,
                    temperature=RECIPE.distillation.temperature,
                    l1_weight=RECIPE.distillation.l1_weight,
                )
            step = steps.degrading_step(
                update, setting=SETTING, scale=SCALE, width_max=4.0
            )
            return parallel.over_devices(steps.skip_nonfinite(step, ema_decay=0.0))

        seen = crops if role == "teacher" else 1
        images = parallel.split(self._pixels(batch, seen, lr_crop * SCALE))
        constants = steps.Constants(jnp.int32(0), self.case.arrays["basis"], frozen)
        constants = parallel.replicate(constants)
        run = parallel.replicate(fresh_run(state, averaged=False))
        # Without the work that rematerialisation adds.
        plain = _work(step(remat=False), run, images, constants)
        compiled = step()

        def do() -> None:
            nonlocal run
            run, measured = compiled(run, images, constants)
            jax.block_until_ready((run, measured))

        return plain._replace(do=do)

    def degrade(self, *, setting: int | str, batch: int, crops: int, size: int) -> Work:
        """Makes LR images by random degradations."""
        hr = jax.device_put(self._pixels(batch, crops, size))
        keys = jax.random.split(jax.random.key(0), batch)

        @jax.jit
        def degrade(keys: Array, hr: Array) -> Array:
            drawn = SETTINGS[setting].sample(keys, width_max=4.0)
            return SETTINGS[setting].apply(keys, hr, drawn, scale=SCALE)

        if isinstance(setting, str):  # real-world: as many operations as it has
            return _work(degrade, keys, hr)

        # Blur and bicubic interpolation are one kernel; that of setting 1 is separable.
        reach = KERNEL_SIZE + 4 * SCALE - 1
        taps = (
            reach / SCALE + reach / SCALE**2 if setting == 1 else (reach / SCALE) ** 2
        )
        return _work(degrade, keys, hr)._replace(operations=2 * taps * hr.size)

    def contrast(self, *, batch: int, crops: int, queue: int) -> Work:
        """Computes the contrastive loss with its gradient, and updates the queue."""

        def loss(embeddings: Array, keys: Array, queue: Array) -> Array:
            queries = contrast.normalise(embeddings)
            return contrast.contrastive_loss(
                queries, keys, queue, temperature=RECIPE.contrast.temperature
            )

        @partial(jax.jit, donate_argnums=1)
        def step(embeddings: Array, negatives: Array, pointer: Array) -> Any:
            keys = contrast.normalise(embeddings)
            gradient = jax.value_and_grad(loss)(embeddings, keys, negatives)
            return gradient, *contrast.enqueue(negatives, pointer, keys[0])

        embeddings = jax.device_put(self._uniform(crops, batch, 128) - 0.5)
        negatives = contrast.fresh_queue(jax.random.key(0), queue)
        pointer = jnp.int32(0)
        work = _work(step, embeddings, negatives, pointer)

        def do() -> None:
            nonlocal negatives, pointer
            result, negatives, pointer = step(embeddings, negatives, pointer)
            jax.block_until_ready((result, negatives))

        return work._replace(do=do)

    def score(self, *, batch: int, size: int, ssim: bool) -> Work:
        """Computes PSNR, and optionally SSIM, of images in memory."""
        first, second = self._pixels(2, batch, size)

        def do() -> None:
            metrics.psnr_y(first, second, border=SCALE)
            if ssim:
                metrics.ssim_y(first, second, border=SCALE)

        return Work(do, 0, first.nbytes + second.nbytes)

    def _student(self) -> Model:
        role = self.case.roles[-1]
        state = self.case.state(role)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        basis = self.case.arrays["basis"]
        spec = ModelSpec.of_network(self.case.network, role, SETTING)
        return Model(spec, jax.device_put(variables), basis)

    def _uniform(self, *shape: int) -> np.ndarray:
        return self.random.uniform(size=shape).astype(np.float32)

    def _pixels(self, batch: int, crops: int, size: int) -> np.ndarray:
        return self.random.integers(256, size=(batch, crops, size, size, 3), dtype="u1")


def _work(function: Callable[..., Any], *arguments: Any) -> Work:
    """Makes the work `function(*arguments)`, with its cost from shapes."""
    results = jax.eval_shape(function, *arguments)
    leaves = jax.tree.leaves((arguments, results))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return Work(
        do=lambda: jax.block_until_ready(function(*arguments)),
        operations=2 * multiply_accumulates(function, *arguments),
        bytes=size,
    )
