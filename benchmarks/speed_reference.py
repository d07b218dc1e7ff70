"""The references' side of `benchmarks.speed`, by the names of `speed_ours`.

A checkout is run unmodified, as by `lightbsr compare`, and without CUDA if there is
none. The modes are eager, eager with channels-last weights and images, and compiled by
torch.compile.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.realworld import Published
from lightbsr_jax.parity import peers
from lightbsr_jax.parity.program import DEVICE, Batch

Do = Callable[[], Any]


class Side:
    """The reference in `checkout` with the weights in `weights`."""

    def __init__(self, checkout: Path, weights: Path, dtype: str, mode: str) -> None:
        self.checkout = checkout
        self.reference = peers.load(checkout, weights)
        self.meta = self.reference.meta
        self.dtype = getattr(torch, dtype)
        self.mode = mode
        self.random = torch.Generator().manual_seed(0)

    def peak_bytes(self) -> int | None:
        if DEVICE == "cpu":
            return None
        return torch.cuda.max_memory_allocated()

    def restore(self, *, batch: int, size: int) -> Do:
        role = self.reference.roles[0]
        model = self._formatted(self.reference.model(role).eval())
        if self.mode == "compiled":
            model.compile()
        lr = self._formatted(self._uniform(batch, 3, size, size))

        @torch.no_grad()
        def do() -> None:
            with self._autocast():
                self.reference.restore(role, model, lr)
            _wait()

        return do

    def modulate(self, *, batch: int, size: int, learns: bool) -> Do:
        model = self.reference.model(self.reference.roles[0])
        layer = model.get_submodule("G.body.0.body.0.da_conv1")
        x = self._uniform(batch, 64, size, size).requires_grad_(learns)
        idr = self._uniform(batch, 64).requires_grad_(learns)
        gradient = self._uniform(batch, 64, size, size)

        def do() -> None:
            with torch.set_grad_enabled(learns):
                result = layer([x, idr])
            if learns:
                learnt = [x, idr, *layer.parameters()]
                torch.autograd.grad(result, learnt, gradient)
            _wait()

        return do

    def upscale(self, *, size: int) -> Do:
        return self.restore(batch=1, size=size)

    def train(
        self, *, role: str, stage: int, batch: int, crops: int, lr_crop: int
    ) -> Do:
        reference, size = self.reference, lr_crop * self.meta["scale"]
        model = self._formatted(reference.model(role))
        self._formatted(reference.teacher)
        if self.mode == "compiled":
            (model.E if role == "teacher" and stage == 1 else model).compile()
            reference.teacher.compile()
        optimizer = reference.optimizer(model)
        degrade = reference.preprocessing()
        images = self._pixels(batch, crops if role == "teacher" else 1, 3, size, size)

        def do() -> None:
            lr, kernels, level = degrade(images, random=True)
            prior = reference.prior(kernels, level.flatten())
            optimizer.zero_grad()
            with self._autocast():
                made = Batch(lr, prior, images[:, 0])
                losses = reference.stage_losses(role, model, made, stage=stage)
            sum(losses.values()).backward()
            optimizer.step()
            _wait()

        return do

    def degrade(self, *, setting: int | str, batch: int, crops: int, size: int) -> Do:
        if isinstance(setting, str):
            return self._degrade_real(batch, size)
        self.meta["setting"] = setting
        degrade = self.reference.preprocessing()
        images = self._pixels(batch, crops, 3, size, size)

        def do() -> None:
            degrade(images, random=True)
            _wait()

        return do

    def _degrade_real(self, batch: int, size: int) -> Do:
        """KDSR-GAN's real-world degradations, after its loader."""
        program = Published(self.checkout.parent / "KDSR-GAN", size)
        images = self._pixels(batch, size, size, 3).byte().cpu().numpy()
        examples = [program.load(image) for image in images]

        def do() -> None:
            program.degrade(examples)

        return do

    def contrast(self, *, batch: int, crops: int, queue: int) -> Do:
        class Given(nn.Module):
            """Replaces the encoder: it returns given embeddings."""

            def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
                return embeddings, embeddings

        moco = self.reference.teacher_module.MoCo(Given, dim=128, K=queue)
        moco = moco.to(DEVICE).train()
        embeddings = self._uniform(batch, crops, 128) - 0.5
        embeddings.requires_grad_()

        def do() -> None:
            embeddings.grad = None
            moco(embeddings)[1].backward()
            _wait()

        return do

    def score(self, *, batch: int, size: int, ssim: bool) -> Do:
        first, second = self._pixels(2, batch, 1, 3, size, size)
        utility, scale = self.reference.utility, self.meta["scale"]

        def do() -> None:
            for a, b in zip(first, second, strict=True):
                utility.calc_psnr(a, b, scale, 255, benchmark=True)
                if ssim:
                    utility.calc_ssim(a, b, scale, benchmark=True)

        return do

    def _formatted(self, x: Any) -> Any:
        channels_last = self.mode == "channels-last"
        return x.to(memory_format=torch.channels_last) if channels_last else x

    def _autocast(self) -> AbstractContextManager[None]:
        wide = self.dtype == torch.float32
        return torch.autocast(DEVICE, dtype=self.dtype, enabled=not wide)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random).to(DEVICE)

    def _pixels(self, *shape: int) -> Tensor:
        """Random images as from the reference's loader: float32 in 0..255."""
        return torch.randint(256, shape, generator=self.random).float().to(DEVICE)


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
