"""Comparing our numbers with those of the PyTorch reference.

A row of the table is a quantity: one array, or the worst of all arrays of a kind (the
JSON lists each). Differences are relative, the norm of the difference divided by the
norm of the reference's array, with these exceptions:

- PSNR and SSIM are judged by the absolute difference.
- Rounded images: a value that falls between two levels may round either way.
- BatchNorm cancels the biases of the estimator's convolutions: their gradient is zero
  up to rounding, and is compared with the gradient of their kernel.

Everything is float32 except the tensors after training, which are float64: Adam turns
a gradient of mere rounding into a step of the full rate, so that in float32 no two
programs would reach the same parameters. For gradients and training losses the
reference also runs in float64. If its own float32 is far from that, three times the
distance is allowed (marked by an asterisk). In KDSR and DASR, which have many
LeakyReLUs, rounding may change the sign of a value and thereby its gradient: their
gradients and training losses are float64, too. (With some weights one or two of DASR's
3.3 million signs differed in float32: its gradients and our float32 ones were 2e-3
apart, but 3e-6 with the same signs changed in the reference's float64.)
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lightbsr_jax
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import metrics
from lightbsr_jax.methods import registry
from lightbsr_jax.models.state_dict import PUBLISHED_QUEUE
from lightbsr_jax.parity import last_stage
from lightbsr_jax.parity import ours as our_side
from lightbsr_jax.parity.case import LAST_STAGES, Arrays, Case

FORWARD = 1e-5
GRADIENT = 1e-4
TRACE_LOSS = 1e-4
WIDE = 1e-8  # in float64
STEP = 1e-9  # parameters after a single step in float64
PSNR = 1e-3  # dB
ROUNDED = 1e-3  # share of values in rounded images that may differ by a level

_ROUNDING_ALLOWED = 3  # times the reference's own error in float32

Measure = Literal["relative", "absolute", "level", "cancelled"]


class Kind(NamedTuple):
    """A quantity's name in the table, its tolerance and its measure."""

    quantity: str
    tolerance: float
    measure: Measure = "relative"


# The kinds by patterns of arrays' names; the first match counts. If a quantity ends in
# a colon, the part of the network is appended.
_CANCELLED = r"E\.(encoder_q\.)?E\.(0|3|6|9|12|15)\.bias"
_KINDS = {
    r"(\w+)/size": Kind("numbers of parameters", WIDE),
    "discriminator/pass/": Kind("discriminator, three passes", FORWARD),
    "discriminator/gradient64/": Kind("discriminator, gradients in float64", WIDE),
    "discriminator/step64/": Kind("discriminator, a step in float64", STEP),
    "discriminator/trace/": Kind("discriminator, trace in float64", WIDE),
    r"(\w+)/step64/": Kind(r"\1, a step in float64: parameters", STEP),
    "degradation/isotropic": Kind("kernels, isotropic", FORWARD),
    "degradation/anisotropic": Kind("kernels, anisotropic", FORWARD),
    "degradation/blurred": Kind("blur", FORWARD),
    "degradation/down": Kind("bicubic, shrinking", FORWARD),
    "degradation/up": Kind("bicubic, enlarging", FORWARD),
    "degradation/kernel": Kind("random degradation: kernels", FORWARD),
    "degradation/noise_level": Kind("random degradation: noise levels", FORWARD),
    "degradation/lr": Kind("random degradation: LR images", ROUNDED, "level"),
    "degradation/prior": Kind("degradation prior", FORWARD),
    "metrics/psnr": Kind("PSNR", PSNR, "absolute"),
    "metrics/ssim": Kind("SSIM", 1e-5, "absolute"),
    r"images/\d+/lr": Kind("photographs: LR, rounded", ROUNDED, "level"),
    r"images/\d+/sr": Kind("photographs: SR, rounded", ROUNDED, "level"),
    r"images/\d+/psnr": Kind("photographs: PSNR", PSNR, "absolute"),
    r"images/\d+/ssim": Kind("photographs: SSIM", 1e-5, "absolute"),
    r"distillation/(\w+)": Kind(r"distillation loss: \1", FORWARD),
    r"(\w+)/(evaluation|training)/": Kind(r"\1, \2:", FORWARD),
    r"(\w+)/loss/(\w+)": Kind(r"\1, a step: \2 loss", FORWARD),
    rf"(\w+)/gradient/{_CANCELLED}": Kind(
        r"\1, gradients: cancelled biases", FORWARD, "cancelled"
    ),
    r"(\w+)/gradient/": Kind(r"\1, gradients:", GRADIENT),
    rf"(\w+)/gradient64/{_CANCELLED}": Kind(
        r"\1, gradients in float64: cancelled biases", WIDE, "cancelled"
    ),
    r"(\w+)/gradient64/": Kind(r"\1, gradients in float64:", WIDE),
    r"(\w+)/after/.*running_": Kind(r"\1, a step: BatchNorm statistics", FORWARD),
    r"(\w+)/after/E\.queue_ptr": Kind(r"\1, a step: queue pointer", FORWARD),
    r"(\w+)/after/E\.queue": Kind(r"\1, a step: queue", FORWARD),
    r"(\w+)/after/E\.encoder_k": Kind(r"\1, a step: momentum parameters", FORWARD),
    r"(\w+)/trace/loss64/(\w+)": Kind(r"\1, trace in float64: \2 loss", WIDE),
    r"(\w+)/trace/loss/(\w+)": Kind(r"\1, trace: \2 loss", TRACE_LOSS),
    r"(\w+)/trace/tensor/.*running_": Kind(
        r"\1, trace in float64: BatchNorm statistics", WIDE
    ),
    r"(\w+)/trace/tensor/E\.queue": Kind(r"\1, trace in float64: queue", WIDE),
    r"(\w+)/trace/tensor/E\.encoder_k": Kind(
        r"\1, trace in float64: momentum parameters", WIDE
    ),
    r"(\w+)/trace/tensor/": Kind(r"\1, trace in float64: parameters", WIDE),
}
# Parts of the network by patterns of the reference's names; the first match counts.
_PARTS = {
    "estimator": r"E$|E(\.encoder_q|_st)?(\.E\b|/0)",
    "projector": r"E(\.encoder_q|_st)?(\.mlp|/1)",
    "momentum branch": r"E\.encoder_k",
    "IDR-converter": r"G\.(compress|afterpixshuffle)|G/[12]|E(_st)?\.compress",
    "kernels and gates": r".*da_conv\d\.(kernel|ca)",
    "IDR-CBs": r".*(ca|xk)_change|G\.body\.\d+/[12]",
    "spatial modulation": r".*(spatial_attention|partial_conv3)",
    "channel modulation": r".*spatial_mixing",
    "blocks": r"G\.body\.\d+\.body",
    "head and groups": r"G\.(body|head)",
    "upscaler": r"G\.tail",
    "SR": r"G/0|G$",
}


class Difference(NamedTuple):
    """The difference between an array of ours and the reference's."""

    absolute: float  # the largest
    relative: float  # by norms
    judged: float  # by the kind's measure
    allowed: float  # the kind's tolerance, or more if the reference's rounding is large


@dataclass
class Row:
    """A quantity in the table; its arrays' differences by name."""

    kind: Kind
    parts: dict[str, Difference] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # arrays that one side lacks

    @property
    def worst(self) -> str:
        """The array with the largest excess; NaN is the worst."""

        def excess(name: str) -> float:
            part = self.parts[name]
            return float(np.nan_to_num(part.judged / part.allowed, nan=np.inf))

        return max(self.parts, key=excess)

    @property
    def culprit(self) -> str:
        """The array that the verdict is about: a missing one, or the worst."""
        return self.missing[0] if self.missing else self.worst

    @property
    def verdict(self) -> str:
        if self.missing:
            return "MISSING"
        part = self.parts[self.worst]
        return "ok" if part.judged <= part.allowed else "DIFFERS"


def run_reference(checkout: str | Path, case: Case) -> Arrays:
    """Runs the reference in a separate process; returns its results.

    Raises UserError if the folder is not a checkout of it, or if it fails.
    """
    found, method = find_program(checkout), case.method
    checkout = found.folder
    if registry.METHODS[found.method] is not method:
        raise UserError(
            f"{checkout} is a checkout of {registry.METHODS[found.method].title}, but "
            f"the weights are for {method.title}: give a checkout of {method.reference}"
        )
    if found.features and case.scale != 4:
        raise UserError(
            f"scale {case.scale}: the reference's code in {checkout} fixes scale 4"
        )
    sizes = {**case.meta["network"], "queue_size": case.meta["queue_size"]}
    published = {**method.published, "queue_size": PUBLISHED_QUEUE}
    if method.published and sizes != published:
        raise UserError(
            f"the weights have the sizes {sizes}, but the reference's code fixes "
            f"{published}: compare weights of that size"
        )
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "the reference requires PyTorch, which is not installed: pip install "
            "torch, or --replay a recording made with it"
        )
    package = Path(lightbsr_jax.__file__).parents[1]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    with TemporaryDirectory(prefix="lightbsr-compare-") as scratch:
        given, made = Path(scratch, "case.npz"), Path(scratch, "results.npz")
        arrays: dict[str, Any] = {"meta": json.dumps(case.meta), **case.arrays}
        np.savez(given, **arrays)
        module = "lightbsr_jax.parity.peers"
        done = subprocess.run(
            [sys.executable, "-m", module, checkout, given, made],
            cwd=scratch,  # for files that it may write
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"the reference in {checkout} failed: {_failure(done)}")
        with np.load(made) as results:
            return dict(results)


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    """The reason why a process failed: its last line, or the signal that ended it."""
    if done.returncode < 0:
        return f"signal {-done.returncode} ended it, as when memory runs out: free some"
    return done.stderr.strip().rpartition("\n")[2]


class Program(NamedTuple):
    """A published program."""

    method: str  # its name
    folder: Path  # of the code
    features: int = 0  # of the discriminator of a last stage


def find_program(checkout: str | Path) -> Program:
    """The program of a checkout, or of its folder.

    Raises UserError if it is not a checkout of any method.
    """
    for folder in (Path(checkout).resolve(), Path(checkout, "KDSR-classic").resolve()):
        for name, method in registry.METHODS.items():
            stage = LAST_STAGES.get(name)
            if all((folder / file).is_file() for file in method.checkout):
                return Program(name, folder)
            if stage and all((folder / file).is_file() for file in stage.files):
                return Program(name, folder, stage.features)
    known = ", ".join(method.reference for method in registry.METHODS.values())
    files = registry.METHODS["lightbsr"].checkout
    missing = [name for name in files if not Path(checkout, name).is_file()]
    raise UserError(
        f"{Path(checkout).resolve()} is not a checkout of a reference: missing "
        f"{', '.join(missing)} of LightBSR. Clone one of {known} and give its folder"
    )


def table(ours: Arrays, theirs: Arrays, *, cancels: bool = True) -> list[Row]:
    """Makes the rows of a comparison.

    `cancels`: whether BatchNorm cancels the biases of the estimator.
    """
    rows: dict[str, Row] = {}
    names = [name for name in theirs if not name.startswith("rounding/")]
    for name in [*names, *(ours.keys() - theirs.keys())]:
        kind = classify(name, cancels=cancels)
        row = rows.setdefault(kind.quantity, Row(kind))
        if name in ours and name in theirs:
            row.parts[name] = _difference(kind, name, ours, theirs)
        else:
            row.missing.append(name)
    return _sorted(list(rows.values()))


def _sorted(rows: Sequence[Row]) -> list[Row]:
    """Sorts rows by section, in their order, and within a section by network part."""
    sections = [row.kind.quantity.partition(": ")[0] for row in rows]
    parts = list(_PARTS)

    def place(row: Row) -> tuple[int, int]:
        section, _, part = row.kind.quantity.partition(": ")
        return sections.index(section), parts.index(part) if part in parts else -1

    return sorted(rows, key=place)


def classify(name: str, *, cancels: bool = True) -> Kind:
    """The kind of an array."""
    for pattern, kind in _KINDS.items():
        if kind.measure == "cancelled" and not cancels:
            continue
        if match := re.match(pattern, name):
            quantity = match.expand(kind.quantity)
            if quantity.endswith(":"):
                quantity += f" {_part(name[match.end() :])}"
            return kind._replace(quantity=quantity)
    raise ValueError(f"no quantity has arrays called {name}")


def _part(name: str) -> str:
    return next(part for part, pattern in _PARTS.items() if re.match(pattern, name))


def _difference(kind: Kind, name: str, ours: Arrays, theirs: Arrays) -> Difference:
    a, b = ours[name].astype(float), theirs[name].astype(float)
    rounding = float(theirs.get(f"rounding/{name}", 0.0))
    allowed = max(kind.tolerance, _ROUNDING_ALLOWED * rounding)
    if a.shape != b.shape:
        return Difference(np.inf, np.inf, np.inf, allowed)
    apart = np.abs(a - b)
    absolute = float(apart.max(initial=0))
    norm, distance = np.linalg.norm(b), np.linalg.norm(apart)
    relative = float(distance / norm) if norm or distance else 0.0
    if kind.measure == "relative":
        return Difference(absolute, relative, relative, allowed)
    if kind.measure == "absolute":
        judged = absolute
    elif kind.measure == "level":
        level = 1.0 if ours[name].dtype == np.uint8 else 1 / 255
        share = float((apart > level / 2).mean())
        judged = share if absolute < 1.5 * level else np.inf
    else:  # compare each with the kernel's gradient, not with one another
        kernel = theirs[re.sub("bias$", "weight", name)]
        judged = float(max(np.linalg.norm(a), norm) / np.linalg.norm(kernel))
    return Difference(absolute, relative, judged, kind.tolerance)


class Arithmetic(NamedTuple):
    """Error of a student's SR images in one precision."""

    name: str
    relative_error: float  # against the reference's
    psnr: float | None  # mean over the case's photographs, in dB; None without any


def precision(case: Case, theirs: Arrays) -> list[Arithmetic]:
    """Errors of float32, JAX's default and bfloat16 against the reference's SR."""
    lr = jnp.asarray(case.arrays["evaluation/lr"])
    sr = np.moveaxis(theirs[_sr_name(theirs)][0], -3, -1)
    expected = 255 / case.network.IMAGE_RANGE * sr
    images = range(len(case.meta["images"]))
    costs = []
    for label, products, dtype in (
        ("float32 (highest)", "highest", jnp.float32),
        ("JAX's default", "default", jnp.float32),
        ("bfloat16", "default", jnp.bfloat16),
    ):
        restore = our_side.restorer(case, dtype)
        with jax.default_matmul_precision(products):
            error = np.linalg.norm(restore(lr) - expected) / np.linalg.norm(expected)
            pairs = [our_side.restore_image(case, index, restore) for index in images]
        psnr = [metrics.psnr_y(*pair, border=case.scale) for pair in pairs]
        mean = float(np.mean(psnr)) if psnr else None
        costs.append(Arithmetic(label, float(error), mean))
    return costs


def _sr_name(theirs: Arrays) -> str:
    """Name of the SR image in evaluation mode, of the role that needs only LR."""
    names = ("student/evaluation/G/0", "student/evaluation/G", "network/evaluation/G")
    return next(name for name in names if name in theirs)


class Comparison(NamedTuple):
    """The table of a comparison, and our side's arrays."""

    rows: list[Row]
    ours: Arrays

    @property
    def agrees(self) -> bool:
        return all(row.verdict == "ok" for row in self.rows)


def has_ssim(theirs: Arrays) -> bool:
    """Returns whether the reference computed SSIM, which needs OpenCV."""
    return "metrics/ssim" in theirs


def with_ours(case: Case, theirs: Arrays) -> Comparison:
    """Runs our side and compares it with the reference's.

    Raises UserError if JAX may not use the CPU.
    """
    try:
        jax.local_devices(backend="cpu")
    except RuntimeError as error:
        raise UserError(
            "training in float64 runs on the CPU: unset JAX_PLATFORMS, or add cpu"
        ) from error
    ours = (last_stage if case.features else our_side).everything(case)
    if not has_ssim(theirs):
        ours = {name: x for name, x in ours.items() if not name.endswith("/ssim")}
    method = case.method
    return Comparison(table(ours, theirs, cancels=method.contrasts is not None), ours)
