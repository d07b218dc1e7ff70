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
from types import SimpleNamespace
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
    return program(str(checkout), meta, case)


if __name__ == "__main__":
    checkout, case_file, result_file = sys.argv[1:]
    program.run(load(checkout, case_file), result_file)
