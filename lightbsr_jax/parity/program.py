"""The PyTorch reference's side of a comparison, in a separate process.

An unmodified checkout of the reference is imported and called but not written to. A
case holds weights and inputs, with images [..., H, W, C]. The results are the outputs
of the reference, in torch's layouts and with the names of `ours`; `rounding/...` holds
the difference between its float32 and its float64. `peers` runs it, like the programs
of the other methods.

The reference runs here without CUDA (to which it moves tensors unconditionally) and
without packages that it imports but does not compute with, such as timm.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Results = dict[str, Any]  # of tensors and arrays
Inputs = Mapping[str, np.ndarray]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STUBS = {
    "timm.models.layers": "DropPath",  # not constructed for a rate of 0
    "matplotlib.pyplot": None,
    "imageio": None,
    "scipy.misc": None,
    "cv2": None,  # needed only for SSIM, which is left out without it
}


class Batch(NamedTuple):
    """The arguments of a step in the trainers, on DEVICE."""

    lr: Tensor  # [B, D, C, h, w] in [0, 1], D crops of each image
    prior: Tensor  # [B, P]
    hr: Tensor  # [B, C, H, W] in 0..255


def run(reference: "Reference", result_file: str) -> None:
    """Runs a program on its case and writes the results."""
    # Operands of the case are small: threads that wait for each other would cost up to
    # thirty times more than they save.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results: Results = {}
    for part in (
        reference.degradations,
        reference.metrics,
        reference.distillation,
        reference.evaluation,
        reference.training,
        reference.traces,
    ):
        results |= part()
    torch.set_num_threads(threads)
    results |= reference.images()
    arrays: dict[str, Any] = {name: _numpy(x) for name, x in results.items()}
    np.savez(result_file, **arrays)


def _total(losses: dict[str, Tensor]) -> Tensor:
    return cast(Tensor, sum(losses.values()))


class Reference:
    """The modules of LightBSR's program, with a case's weights and inputs.

    The programs of the other methods consist of the same parts.
    """

    roles: tuple[str, ...] = ("student", "teacher")
    teacher: Any  # the module of a student's teacher
    encodes_twice = True  # a training pass encodes the first crop twice
    smooth = True  # no LeakyReLUs except in the estimator

    def __init__(self, checkout: str, meta: dict[str, Any], case: Inputs) -> None:
        _stub_missing()
        if DEVICE == "cpu":
            owners: list[Any] = [Tensor, nn.Module]
            for owner in owners:
                owner.cuda = lambda self, *_, **__: self
        # On GPUs convolutions would run in TF32.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        sys.path.insert(0, checkout)
        self.import_modules()
        self.import_utilities()
        self.meta = meta
        self.scale = meta["scale"]
        self.inputs = {
            name: torch.from_numpy(value).to(DEVICE)
            for name, value in case.items()
            if not name.startswith("weights/")
        }
        self.weights = {
            role: {
                name.removeprefix(f"weights/{role}/"): torch.from_numpy(value)
                for name, value in case.items()
                if name.startswith(f"weights/{role}/")
            }
            for role in meta["weights"]
        }
        if "teacher" in self.roles:
            self.teacher = self.model("teacher").eval()  # a student's

    def model(self, role: str) -> nn.Module:
        """Makes a model with the case's weights, in training mode."""
        module = {"student": self.student_module, "teacher": self.teacher_module}[role]
        model = module.BlindSR(SimpleNamespace(scale=[float(self.scale)], n_GPUs=1))
        if role == "teacher":
            # The published code is for setting 1; setting 2 is in a comment.
            channels = 3 + self.meta["prior_channels"]
            for encoder in (model.E.encoder_q, model.E.encoder_k):
                if encoder.E[0].in_channels != channels:
                    encoder.E[0] = nn.Conv2d(channels, 32, kernel_size=3, padding=1)
                encoder.requires_grad_(encoder is model.E.encoder_q)
        model.load_state_dict(self.weights[role], strict=True)
        return model.to(DEVICE).train()

    def import_modules(self) -> None:
        self.student_module = importlib.import_module("model.student")
        self.teacher_module = importlib.import_module("model.teacher")
        self.losses = importlib.import_module("loss.distillation_loss")

    def import_utilities(self) -> None:
        self.util = importlib.import_module("utils.util")
        self.utility = importlib.import_module("utility")

    def outputs(self, model: nn.Module) -> AbstractContextManager[dict]:
        """Collects the outputs of modules, call by call."""
        return _outputs(model)

    def restore(self, role: str, model: nn.Module, lr: Tensor) -> Tensor:
        """Restores LR images to [0, 1]; a teacher only those of the evaluation."""
        if role == "student":
            return model(lr)
        return model((lr, _spread(self.inputs["evaluation/prior"], lr)))

    def degradations(self) -> Results:
        given = {
            name.removeprefix("degradation/"): value
            for name, value in self.inputs.items()
            if name.startswith("degradation/")
        }
        hr = _channels_first(given["hr"]).float()  # [B, D, C, H, W]
        batch, _, channels, height, width = hr.shape
        covariance = self.util.cal_sigma(given["l1"], given["l2"], given["theta"])
        isotropic = self.util.isotropic_gaussian_kernel(batch, 21, given["sigma"])
        anisotropic = self.util.anisotropic_gaussian_kernel(batch, 21, covariance)
        blurred = self.util.BatchBlur(21)(
            hr.view(batch, -1, height, width), anisotropic
        ).view(hr.shape)
        bicubic = self.util.bicubic()
        results = {
            "isotropic": isotropic,
            "anisotropic": anisotropic,
            "blurred": blurred,
            "down": bicubic(blurred.flatten(0, 1), scale=1 / self.scale),
            "up": bicubic(hr.flatten(0, 1), scale=self.scale),
        }
        results |= self.random_degradations(given, hr)
        return {f"degradation/{name}": value for name, value in results.items()}

    def random_degradations(self, given: dict[str, Tensor], hr: Tensor) -> Results:
        """The reference's random degradations of HR images, for given numbers."""
        normal = _channels_first(given["noise"]).flatten(0, 1)
        with _fed("rand", list(given["uniform"])), _fed("randn_like", [normal]):
            lr, kernels, level = self.preprocessing()(hr, random=True)
        level = level.flatten()
        results = {"lr": lr, "kernel": kernels, "noise_level": level}
        return {**results, "prior": self.prior(kernels, level)}

    def preprocessing(self, **fixed: float) -> Any:
        """The reference's degradations: random ones of the setting, or fixed ones."""
        if self.meta["setting"] == 1:
            return self.util.SRMDPreprocessing(
                self.scale, blur_type="iso_gaussian", noise=0.0, **fixed
            )
        noise = fixed.pop("noise", 25.0)
        return self.util.SRMDPreprocessing(
            self.scale, blur_type="aniso_gaussian", noise=noise, **fixed
        )

    def prior(self, kernels: Tensor, noise_level: Tensor) -> Tensor:
        """The prior's vectors, computed as in the reference's trainer."""
        vector = torch.mm(kernels.view(len(kernels), -1), self.inputs["basis"])
        if self.meta["setting"] == 2:
            noise = noise_level[:, None].repeat(1, 3)
            vector = torch.cat([vector, noise], dim=1)
        return vector

    def metrics(self) -> Results:
        first = _channels_first(self.inputs["metrics/first"]).float()
        second = _channels_first(self.inputs["metrics/second"]).float()
        pairs = list(zip(first[:, None], second[:, None], strict=True))
        results = {"metrics/psnr": np.array([self._psnr(a, b) for a, b in pairs])}
        if _has_opencv():
            results["metrics/ssim"] = np.array([self._ssim(a, b) for a, b in pairs])
        return results

    def _psnr(self, sr: Tensor, hr: Tensor) -> float:
        return self.utility.calc_psnr(sr, hr, self.scale, 255, benchmark=True)

    def _ssim(self, sr: Tensor, hr: Tensor) -> float:
        return self.utility.calc_ssim(sr, hr, self.scale, benchmark=True)

    def distillation(self) -> Results:
        channel, spatial = (
            [
                self.inputs[f"distillation/{kind}_{role}"]
                for role in ("student", "teacher")
            ]
            for kind in ("channel", "spatial")
        )
        return {
            "distillation/channel": self.losses.KL_L1()([channel[0]], [channel[1]]),
            "distillation/spatial": self.losses.Fea_loss()(*spatial),
        }

    def evaluation(self) -> Results:
        """Every module's output in evaluation mode."""
        lr = _channels_first(self.inputs["evaluation/lr"])
        results: Results = {}
        for role in self.roles:
            model = self.model(role).eval()
            with torch.no_grad(), self.outputs(model) as outputs:
                self.restore(role, model, lr)
            results |= _named(f"{role}/evaluation", outputs)
        return results

    def training(self) -> Results:
        """Outputs, losses, gradients and new buffers of a pass of the second stage."""
        results: Results = {}
        for role in self.roles[::-1]:
            model = self.model(role)
            with self.outputs(model) as outputs:
                losses = self._losses(role, model, step=0, stage=2)
            _total(losses).backward()
            for name, calls in outputs.items():
                if "encoder_q" in name and self.encodes_twice:
                    calls.pop()  # the second encoding of the first crop
            results |= _named(f"{role}/training", outputs)
            results |= _named(f"{role}/loss", losses)
            gradients = _gradients(model)
            learnt = {name for name, _ in model.named_parameters() if name in gradients}
            after = {name: x for name, x in _state(model).items() if name not in learnt}
            results |= _named(f"{role}/after", after)

            wide = self.model(role).double()
            _total(self._losses(role, wide, step=0, stage=2)).backward()
            if not self.smooth:
                results |= _named(f"{role}/gradient64", _gradients(wide))
                continue
            results |= _named(f"{role}/gradient", gradients)
            results |= _rounding(f"{role}/gradient", gradients, _gradients(wide))
        return results

    def traces(self) -> Results:
        """Trains across the boundary of stages: losses, and tensors in float64.

        In float32 Adam would turn a gradient of mere rounding into a step of the full
        rate, and no two programs would reach the same parameters.
        """
        results: Results = {}
        for role in self.roles[::-1]:
            wide_losses, tensors = self._trace(role, self.model(role).double())
            results |= _named(f"{role}/trace/tensor", tensors)
            if not self.smooth:
                results |= _named(f"{role}/trace/loss64", wide_losses)
                continue
            losses, _ = self._trace(role, self.model(role))
            results |= _named(f"{role}/trace/loss", losses)
            results |= _rounding(f"{role}/trace/loss", losses, wide_losses)
        return results

    def _trace(
        self, role: str, model: nn.Module
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        optimizer = self.optimizer(model)
        trace: dict[str, list[Tensor]] = {}
        for step, stage in enumerate(self.meta["stages"]):
            for group in optimizer.param_groups:
                group["lr"] = self.meta["recipe"]["learning_rates"][stage - 1]
            optimizer.zero_grad()
            losses = self._losses(role, model, step=step, stage=stage)
            _total(losses).backward()
            optimizer.step()
            for name, loss in losses.items():
                trace.setdefault(name, []).append(loss.detach())
        stacked = {name: torch.stack(losses) for name, losses in trace.items()}
        return stacked, _state(model)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The reference's Adam, with the case's parameters."""
        adam = self.meta["recipe"]["adam"]
        args = SimpleNamespace(
            optimizer="ADAM",
            beta1=adam["b1"],
            beta2=adam["b2"],
            epsilon=adam["eps"],
            weight_decay=0,
        )
        return self.utility.make_optimizer(args, model)

    def _losses(
        self, role: str, model: nn.Module, *, step: int, stage: int
    ) -> dict[str, Tensor]:
        """The stage's losses on a step's batch, in the precision of the model."""
        precision = next(model.parameters()).dtype
        given = {
            name: self.inputs[f"training/{name}"][step].to(precision)
            for name in ("lr", "prior", "hr")
        }
        batch = Batch(
            _channels_first(given["lr"]), given["prior"], _channels_first(given["hr"])
        )
        return self.stage_losses(role, model, batch, stage=stage)

    def stage_losses(
        self, role: str, model: Any, batch: Batch, *, stage: int
    ) -> dict[str, Tensor]:
        """The stage's losses, as the trainers put modules together.

        Computed in the precision of the batch.
        """
        lr, prior, hr = batch
        if role == "teacher":
            spread = _spread(prior[:, None].repeat(1, lr.shape[1], 1), lr)
            if stage == 1:
                _, loss = model.E(torch.cat([lr, spread], dim=2))
                return {"contrastive": loss}
            sr, loss = model((lr, spread))
            return {"contrastive": loss, "reconstruction": F.l1_loss(sr * 255, hr)}
        lr = lr[:, 0]
        teacher = self.teacher.to(lr.dtype)
        with torch.no_grad():
            _, channel, spatial = teacher((lr, _spread(prior, lr)))
        sr, own_channel, own_spatial = model(lr)
        losses = {
            "spatial": self.losses.Fea_loss()(own_spatial, spatial),
            "channel": self.losses.KL_L1()([own_channel], [channel]),
        }
        if stage == 2:
            losses["reconstruction"] = F.l1_loss(sr * 255, hr)
        return losses

    def degraded(self, hr: Tensor) -> Tensor:
        """Degrades to [B, D, C, h, w] in [0, 1], by the case's fixed degradation."""
        return self.preprocessing(**self.meta["fixed_degradation"])(hr, random=False)[0]

    def images(self) -> Results:
        """Degrades photographs, restores them by the student and scores them."""
        role = self.roles[0]
        model = self.model(role).eval()
        results: Results = {}
        for index in range(len(self.meta["images"])):
            hr = _channels_first(self.inputs[f"images/{index}/hr"])[None, None].float()
            noise = self.inputs.get(f"images/{index}/noise")
            normal = [] if noise is None else [_channels_first(noise)[None]]
            with torch.no_grad(), _fed("randn_like", normal):
                lr = self.degraded(hr)
                given = self.inputs[f"images/{index}/lr"]
                given = _channels_first(given)[None].float() / 255
                restored = self.restore(role, model, given)
                sr = self.utility.quantize(restored * 255.0, 255)
            scores: Results = {"lr": (lr[0, 0] * 255).round().byte()}
            scores["psnr"] = self._psnr(sr, hr[:, 0])
            if _has_opencv():
                scores["ssim"] = self._ssim(sr, hr[:, 0])
            scores["sr"] = sr[0].byte()
            results |= _named(f"images/{index}", scores)
        return results


def _stub_missing() -> None:
    """Replaces missing modules, which are imported but not used, by empty ones."""
    for path, name in STUBS.items():
        try:
            module = importlib.import_module(path)
            if name is None or hasattr(module, name):
                continue
        except ImportError:
            pass
        parts = path.split(".")
        for end in range(1, len(parts)):
            package = ".".join(parts[:end])
            sys.modules.setdefault(package, ModuleType(package))
        sys.modules[path] = ModuleType(path)
        if name is not None:
            setattr(sys.modules[path], name, nn.Identity)


def _has_opencv() -> bool:
    return hasattr(sys.modules["cv2"], "filter2D")


@contextmanager
def _fed(name: str, numbers: list[Tensor]) -> Iterator[None]:
    """Makes torch's random function `name` return these numbers, then zeros."""
    original: Callable[..., Tensor] = getattr(torch, name)
    left = [number.clone() for number in numbers]

    def feed(*shape: Any) -> Tensor:
        wanted = shape[0].shape if isinstance(shape[0], Tensor) else shape
        if not left:
            return torch.zeros(wanted, device=DEVICE)
        return left.pop(0).reshape(wanted)

    setattr(torch, name, feed)
    try:
        yield
    finally:
        setattr(torch, name, original)


@contextmanager
def _outputs(
    model: nn.Module, *, layers: bool = False
) -> Iterator[dict[str, list[Tensor]]]:
    """Collects the outputs of modules with parameters, call by call.

    With `layers`, only of layers and of the generator. Several outputs of a module are
    numbered. Containers, whose output is that of their last module, and the fixed
    layers around the network are left out.
    """
    outputs: dict[str, list[Tensor]] = {}

    def collect(name: str, output: Any) -> None:
        if isinstance(output, tuple):
            for index, one in enumerate(output):
                collect(f"{name}/{index}", one)
        else:
            # Copy: activations work in place.
            outputs.setdefault(name, []).append(output.detach().clone())

    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: collect(name, output)
        )
        for name, module in model.named_modules()
        if any(True for _ in module.parameters())
        and not isinstance(module, nn.Sequential)
        and not hasattr(module, "encoder_q")
        and not name.endswith("_mean")
        and name
        and not (layers and name != "G" and any(True for _ in module.children()))
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model, without counts and constants."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked") and "_mean." not in name
    }


def _rounding(
    quantity: str, tensors: Mapping[str, Tensor], wide: Mapping[str, Tensor]
) -> Results:
    """Relative differences of float32 `tensors` from the same in float64."""
    return {
        f"rounding/{quantity}/{name}": (tensors[name] - value).norm() / value.norm()
        for name, value in wide.items()
    }


def _named(prefix: str, values: Mapping[str, Any]) -> Results:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _channels_first(images: Tensor) -> Tensor:
    return images.movedim(-1, -3).contiguous()


def _spread(vectors: Tensor, images: Tensor) -> Tensor:
    """Repeats vectors [..., P] at every pixel of the images: [..., P, H, W]."""
    return vectors[..., None, None].expand(*vectors.shape, *images.shape[-2:])


def _numpy(value: Any) -> np.ndarray:
    """Converts to an array; the calls of a module become a leading axis."""
    if isinstance(value, list):
        return np.array([_numpy(call) for call in value])
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy().copy()
    return np.array(value)
