"""Running the published programs of KDSR and DASR in a comparison (see `program`).

    python -m lightbsr_jax.parity.peers CHECKOUT CASE.npz RESULT.npz

runs the program of the case's method. LightBSR's program descends from DASR's through
KDSR's: degradations, metrics and optimisers are the same functions in all three.
"""

import importlib
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightbsr_jax.parity import program
from lightbsr_jax.parity.program import DEVICE, Batch, Reference, Results


class _Peer(Reference):
    """Common parts of KDSR's and DASR's programs."""

    encodes_twice = False
    modules: dict[str, Any]  # of the checkout, by role
    # If rounding changes the sign of a LeakyReLU's input near zero, a gradient changes
    # by more than rounding: gradients and traces are compared in float64.
    smooth = False

    def model(self, role: str) -> nn.Module:
        sizes = {
            "n_feats": self.meta["network"].get("features"),
            "n_blocks": self.meta["network"]["blocks"],
            "n_resblocks": self.meta["network"].get("residual_blocks"),
        }
        args = SimpleNamespace(scale=[float(self.scale)], rgb_range=1, **sizes)
        model = self.modules[role].BlindSR(args)
        model.load_state_dict(self.weights[role], strict=True)
        return model.to(DEVICE).train()

    def outputs(self, model: nn.Module) -> AbstractContextManager[dict]:
        return program._outputs(model, layers=True)

    def random_degradations(self, given: dict[str, Tensor], hr: Tensor) -> Results:
        return {}

    def distillation(self) -> Results:
        return {}

    def degraded(self, hr: Tensor) -> Tensor:
        fixed = dict(self.meta["fixed_degradation"])
        level = fixed.pop("noise", 0.0)
        if self.meta["setting"] == 1:
            kernel = self.util.stable_isotropic_gaussian_kernel(21, **fixed)
        else:
            kernel = self.util.stable_anisotropic_gaussian_kernel(21, **fixed)
        blurred = self.util.BatchBlur(21)(hr[:, 0], kernel.reshape(1, 21, 21))
        lr = self.util.bicubic()(blurred, scale=1 / self.scale)
        lr = lr + level * torch.randn_like(lr)
        return torch.clamp(lr.round(), 0, 255)[:, None] / 255


class KDSR(_Peer):
    """KDSR's program, in the folder KDSR-classic."""

    roles = ("student", "teacher")

    def import_modules(self) -> None:
        self.modules = {
            "student": importlib.import_module("model_ST.blindsr"),
            "teacher": importlib.import_module("model_TA.blindsr"),
        }

    def restore(self, role: str, model: nn.Module, lr: Tensor) -> Tensor:
        if role == "student":
            return model(lr)
        hr = self.inputs["evaluation/hr"].movedim(-1, -3) / 255
        return model(lr, self._beside(lr, hr))

    def _beside(self, lr: Tensor, hr: Tensor) -> Tensor:
        """The input of the teacher's estimator."""
        return torch.cat([lr, F.pixel_unshuffle(hr, self.scale)], dim=1)

    def stage_losses(
        self, role: str, model: Any, batch: Batch, *, stage: int
    ) -> dict[str, Tensor]:
        lr, hr = batch.lr[:, 0].contiguous(), batch.hr / 255
        if role == "teacher":  # it has one stage
            sr, _ = model(lr, self._beside(lr, hr))
            return {"reconstruction": F.l1_loss(sr, hr)}
        teacher = self.teacher.to(lr.dtype)
        with torch.no_grad():
            encode: Any = teacher.E
            _, (target,) = encode(self._beside(lr, hr))
        losses = {}
        if stage == 1:
            _, (feature,) = model.E_st(lr)
        else:
            sr, (feature,) = model(lr)
            losses["reconstruction"] = F.l1_loss(sr, hr)
        temperature = self.meta["recipe"]["distillation"]["temperature"]
        own = F.log_softmax(feature / temperature, dim=1)
        target = F.softmax(target / temperature, dim=1)
        return {**losses, "channel": F.kl_div(own, target, reduction="batchmean")}


class LastStageOfKDSR(KDSR):
    """KDSR's program with a GAN loss, in the folder KDSR-GAN.

    Its trainer, GAN and perceptual losses and degradations are in the package BasicSR,
    which is not needed here: the stage is put together as in that trainer.
    """

    def import_modules(self) -> None:
        _stub_basicsr()
        # Their files import whatever else is in the folder.
        for package in ("kdsrgan", "kdsrgan.archs", "kdsrgan.losses"):
            module = ModuleType(package)
            module.__path__ = [str(Path(sys.path[0], *package.split(".")))]
            sys.modules[package] = module
        self.modules = {
            "student": importlib.import_module("kdsrgan.archs.ST_arch").BlindSR_ST,
            "teacher": importlib.import_module("kdsrgan.archs.TA_arch").BlindSR_TA,
        }
        judge = importlib.import_module("kdsrgan.archs.discriminator_arch")
        self.judge = judge.UNetDiscriminatorSN
        self.kd_loss = importlib.import_module("kdsrgan.losses.my_loss").KDLoss

    def import_utilities(self) -> None:
        """Takes no degradations and metrics from this program."""

    def model(self, role: str) -> nn.Module:
        sizes = self.meta["network"]
        model = self.modules[role](
            n_feats=sizes["features"],
            n_encoder_res=sizes["residual_blocks"],
            scale=self.scale,
            n_sr_blocks=sizes["blocks"],
        )
        model.load_state_dict(self.weights[role], strict=True)
        return model.to(DEVICE).train()

    def restore(self, role: str, model: nn.Module, lr: Tensor) -> Tensor:
        if role == "student":
            return model(lr)
        return model(lr, self.inputs["evaluation/hr"].movedim(-1, -3) / 255)

    def discriminator(self) -> nn.Module:
        """Makes the discriminator with the case's weights, in training mode."""
        model = self.judge(num_in_ch=3, num_feat=self.meta["discriminator"])
        model.load_state_dict(self.weights["discriminator"], strict=True)
        return model.to(DEVICE).train()

    def degradations(self) -> Results:
        return {}

    def metrics(self) -> Results:
        return {}

    def images(self) -> Results:
        return {}

    def evaluation(self) -> Results:
        """Every module's output, three passes of the discriminator, and sizes."""
        results, judge = super().evaluation(), self.discriminator()
        images = self.inputs["training/hr"][0].movedim(-1, -3) / 255
        for index in range(3):
            with torch.no_grad():
                results[f"discriminator/pass/{index}"] = judge(images)
        for role in self.roles:
            results[f"{role}/size"] = _size(self.model(role))
        results["discriminator/size"] = _size(judge)
        return results

    def training(self) -> Results:
        """Losses of a step."""
        networks = self.model("student"), self.discriminator()
        losses = self._adversarial_step(*networks, _optimizers(networks, self.meta), 0)
        return program._named("student/loss", losses)

    def traces(self) -> Results:
        """Gradients, losses and tensors of steps in float64, of both networks."""
        networks = self.model("student").double(), self.discriminator().double()
        optimizers = _optimizers(networks, self.meta)
        results: Results = {}
        trace: dict[str, list[Tensor]] = {}
        for index in range(len(self.meta["stages"])):
            losses = self._adversarial_step(*networks, optimizers, index)
            for name, loss in losses.items():
                trace.setdefault(name, []).append(loss)
            if index == 0:
                results |= self._tensors(networks, "step64")
                for role, network in zip(_TRAINED, networks, strict=True):
                    found = program._gradients(network)
                    results |= program._named(f"{role}/gradient64", found)
        results |= self._tensors(networks, "trace/tensor")
        stacked = {name: torch.stack(losses) for name, losses in trace.items()}
        return results | program._named("student/trace/loss64", stacked)

    def _tensors(self, networks: tuple[nn.Module, nn.Module], kind: str) -> Results:
        results: Results = {}
        for role, network in zip(_TRAINED, networks, strict=True):
            tensors = {
                name: tensor.clone()
                for name, tensor in program._state(network).items()
                if not name.endswith("weight_v")
            }
            results |= program._named(f"{role}/{kind}", tensors)
        return results

    def _adversarial_step(
        self, student: Any, judge: Any, optimizers: Any, index: int
    ) -> dict[str, Tensor]:
        """The generator's step, then the discriminator's; returns all losses."""
        of_student, of_judge = optimizers
        precision = next(student.parameters()).dtype
        lr, hr = (
            self.inputs[f"training/{name}"][index].to(precision).movedim(-1, -3)
            for name in ("lr", "hr")
        )
        lr, hr = lr[:, 0].contiguous(), (hr / 255).contiguous()
        teacher = self.teacher.to(precision)
        _, target = teacher.E(self._beside(lr, hr))

        judge.requires_grad_(False)
        of_student.zero_grad()
        sr, feature = student(lr)
        recipe = self.meta["recipe"]
        distilled = self.kd_loss(temperature=recipe["distillation"]["temperature"])(
            target, feature
        )
        losses = {
            "reconstruction": F.l1_loss(sr, hr),
            "channel": distilled,
            "adversarial": _gan_loss(judge(sr), real=True),
        }
        given = recipe["adversarial"]
        total = losses["reconstruction"] + losses["channel"]
        total += given["weight"] * losses["adversarial"]
        if "vgg" in self.weights:
            losses["perceptual"] = _perceptual_loss(self.weights["vgg"], sr, hr)
            total += given["perceptual_weight"] * losses["perceptual"]
        total.backward()
        of_student.step()

        judge.requires_grad_(True)
        of_judge.zero_grad()
        for name, images in {"real": hr, "fake": sr.detach().clone()}.items():
            losses[name] = _gan_loss(judge(images), real=name == "real")
            losses[name].backward()
        of_judge.step()
        return {name: loss.detach() for name, loss in losses.items()}


_TRAINED = ("student", "discriminator")


def _gan_loss(logits: Tensor, *, real: bool) -> Tensor:
    """BasicSR's "vanilla" loss."""
    target = torch.full_like(logits, float(real))
    return F.binary_cross_entropy_with_logits(logits, target)


# Layers by their places in torchvision's VGG19: conv1_2, conv2_2, conv3_4, ...
_PERCEPTUAL = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}


def _perceptual_loss(tensors: dict[str, Tensor], sr: Tensor, hr: Tensor) -> Tensor:
    """BasicSR's, by VGG19's tensors with torchvision's names; of the given options."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=DEVICE).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225], device=DEVICE).view(1, 3, 1, 1)
    x = (torch.cat([sr, hr]) - mean) / deviation
    places = sorted({int(name.split(".")[1]) for name in tensors})
    loss, previous = torch.zeros((), dtype=sr.dtype, device=DEVICE), 0
    for place in places:
        if place - previous == 3:  # a pool lies between
            x = F.max_pool2d(x, 2)
        weight, bias = (
            tensors[f"features.{place}.{kind}"].to(x) for kind in ("weight", "bias")
        )
        x = F.conv2d(x, weight, bias, padding=1)
        if place in _PERCEPTUAL:
            own, expected = x.chunk(2)
            loss = loss + _PERCEPTUAL[place] * F.l1_loss(own, expected)
        x, previous = F.relu(x), place
    return loss


def _optimizers(networks: Any, meta: dict[str, Any]) -> list[torch.optim.Optimizer]:
    adam, rate = meta["recipe"]["adam"], meta["recipe"]["learning_rates"][-1]
    betas = adam["b1"], adam["b2"]
    return [
        torch.optim.Adam(network.parameters(), rate, betas, adam["eps"])
        for network in networks
    ]


def _size(model: nn.Module) -> float:
    """The number of all parameters, with fixed ones."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


def _stub_basicsr() -> None:
    """Replaces BasicSR's registries, if it is missing, by ones that do nothing."""
    try:
        importlib.import_module("basicsr.utils.registry")
    except ImportError:
        for package in ("basicsr", "basicsr.utils", "basicsr.utils.registry"):
            sys.modules[package] = ModuleType(package)
        registry = SimpleNamespace(register=lambda: lambda kind: kind)
        module: Any = sys.modules["basicsr.utils.registry"]
        module.ARCH_REGISTRY = module.LOSS_REGISTRY = registry


class DASR(_Peer):
    """DASR's program, whose images are in 0..255."""

    roles = ("network",)

    def import_modules(self) -> None:
        self.modules = {"network": importlib.import_module("model.blindsr")}

    def restore(self, role: str, model: nn.Module, lr: Tensor) -> Tensor:
        return model(255 * lr) / 255

    def stage_losses(
        self, role: str, model: Any, batch: Batch, *, stage: int
    ) -> dict[str, Tensor]:
        lr = 255 * batch.lr
        if stage == 1:
            _, output, target = model.E(lr[:, 0], lr[:, 1])
            return {"contrastive": F.cross_entropy(output, target)}
        sr, output, target = model(lr)
        return {
            "contrastive": F.cross_entropy(output, target),
            "reconstruction": F.l1_loss(sr, batch.hr),
        }


def load(checkout: str | Path, case_file: str | Path) -> Reference:
    """Loads the program of a case's method from a checkout, with that case."""
    sys.dont_write_bytecode = True  # in the checkout
    case = dict(np.load(case_file))
    meta = json.loads(str(case.pop("meta")))
    program = {"lightbsr": Reference, "kdsr": KDSR, "dasr": DASR}[meta["method"]]
    if meta.get("discriminator"):
        program = LastStageOfKDSR
    return program(str(checkout), meta, case)


if __name__ == "__main__":
    checkout, case_file, result_file = sys.argv[1:]
    program.run(load(checkout, case_file), result_file)
