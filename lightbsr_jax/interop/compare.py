"""Our numbers beside the PyTorch reference's, and where they differ by how much.

A row of the table is a quantity: one array, or all of a kind, of which the worst counts
(the JSON has every one). Differences are relative, the norm of the difference over the
norm of the reference's, unless the row says otherwise. Three kinds of row differ:

- Rounded images: a value that falls between two levels may round either way.
- The estimator's convolution biases have BatchNorm behind them, which cancels them:
  their gradient is zero but for rounding, and is held against their kernel's.
- Adam makes a gradient of mere rounding into a step of the full rate. In a trace of
  training that happens to a few of the millions of parameters; and to some more, a
  little, where the gradient of |SR - HR| changes its sign because a pixel is met to
  within rounding. All but one in 100 must agree to a tenth of a step.
- It happens to all of the biases that BatchNorm cancels, and to the running means,
  which contain them. The reference also runs in float64, and three times the distance
  of its own float32 from that is allowed.
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
from lightbsr_jax.interop import convert
from lightbsr_jax.interop import ours as our_side
from lightbsr_jax.interop.case import LEARNING_RATE, Arrays, Case

FORWARD = 1e-5
GRADIENT = 1e-4
TRACE = 1e-4
PSNR = 1e-3  # dB

_NEEDED = (
    "model/student.py",
    "model/teacher.py",
    "moco/builder.py",
    "loss/distillation_loss.py",
    "utils/util.py",
    "utility.py",
)
_ROUNDING_ALLOWED = 3  # times what float32 costs the reference
_STEPS_SHARE = 1e-2  # of the parameters may differ by more than _STEP
_STEP = LEARNING_RATE / 10
_ROUNDED_SHARE = 1e-3  # of the values in rounded images may be a level apart

# Parts of the network by the reference's names; the first that fits.
_PARTS = {
    "estimator": r"E$|E(\.encoder_q)?(\.E\b|/0)",
    "projector": r"E\.encoder_q(\.mlp|/1)",
    "momentum branch": r"E\.encoder_k",
    "IDR-converter": r"G\.(compress|afterpixshuffle)|G/[12]",
    "IDR-CBs": r".*(ca|xk)_change|G\.body\.\d+/[12]",
    "spatial modulation": r".*(spatial_attention|partial_conv3)",
    "channel modulation": r".*spatial_mixing",
    "blocks": r"G\.body\.\d+\.body",
    "head and groups": r"G\.(body|head)",
    "upscaler": r"G\.tail",
    "SR": r"G/0",
}
_CANCELLED = r"E\.(encoder_[qk]\.)?E\.(0|3|6|9|12|15)\.bias"
_DRIFTING = rf"{_CANCELLED}|.*running_mean"

_DEGRADATIONS = {
    "isotropic": "kernels, isotropic",
    "anisotropic": "kernels, anisotropic",
    "blurred": "blur",
    "down": "bicubic, shrinking",
    "up": "bicubic, enlarging",
    "kernel": "random degradation: kernels",
    "noise_level": "random degradation: noise levels",
    "lr": "random degradation: LR images",
    "prior": "degradation prior",
}


class Kind(NamedTuple):
    """What a quantity is called in the table and how it is judged."""

    quantity: str
    tolerance: float
    measure: Literal["relative", "absolute", "level", "cancelled", "steps"] = "relative"


class Difference(NamedTuple):
    """Between one array of ours and the reference's."""

    absolute: float  # the largest
    relative: float  # by norms
    judged: float  # by the kind's measure
    size: int  # numbers in the array
    rounding: float  # what float32 costs the reference, 0 where not measured


@dataclass
class Row:
    """A quantity in the table; its arrays' differences by name."""

    kind: Kind
    parts: dict[str, Difference] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # on one side or the other

    @property
    def worst(self) -> str:
        """The array that counts; not a number is worst of all."""
        return max(
            self.parts,
            key=lambda name: np.nan_to_num(self.parts[name].judged, nan=np.inf),
        )

    @property
    def judged(self) -> float:
        """What is held against the tolerance: the worst, but of shares the whole."""
        if self.kind.measure != "steps":
            return self.parts[self.worst].judged
        parts = self.parts.values()
        return sum(p.judged * p.size for p in parts) / sum(p.size for p in parts)

    @property
    def allowed(self) -> float:
        """The tolerance, raised where the reference's own rounding is of its order."""
        rounding = max((part.rounding for part in self.parts.values()), default=0.0)
        return max(self.kind.tolerance, _ROUNDING_ALLOWED * rounding)

    @property
    def verdict(self) -> str:
        if self.missing:
            return "MISSING"
        return "ok" if self.judged <= self.allowed else "DIFFERS"


def run_reference(checkout: str | Path, case: Case) -> Arrays:
    """The reference's results, from a process of its own.

    Raises UserError where that is no checkout of it, or it fails.
    """
    checkout = Path(checkout).resolve()
    missing = [name for name in _NEEDED if not (checkout / name).is_file()]
    if missing:
        raise UserError(
            f"{checkout} is no checkout of the reference: it has no "
            f"{', '.join(missing)}. Clone github.com/MJ-NCEPU/LightBSR and give its "
            "folder"
        )
    sizes = {**case.meta["network"], "queue_size": case.meta["queue_size"]}
    if sizes != convert.PUBLISHED:
        raise UserError(f"the reference has {convert.PUBLISHED}, not {sizes}")
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "the reference takes PyTorch, which is not installed: pip install torch, "
            "or --replay a recording made where it is"
        )
    package = Path(lightbsr_jax.__file__).parents[1]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    with TemporaryDirectory(prefix="lightbsr-compare-") as scratch:
        given, made = Path(scratch, "case.npz"), Path(scratch, "results.npz")
        np.savez(given, meta=json.dumps(case.meta), **case.arrays)
        module = "lightbsr_jax.interop.reference"
        done = subprocess.run(
            [sys.executable, "-B", "-m", module, checkout, given, made],
            cwd=scratch,  # what it might write goes there
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise UserError(f"the reference in {checkout} failed: {last}")
        with np.load(made) as results:
            return dict(results)


def table(ours: Arrays, theirs: Arrays, *, partial: bool = False) -> list[Row]:
    """The rows of a comparison.

    `partial` says that the reference's side holds a selection, and what it lacks is no
    mistake.
    """
    rows: dict[str, Row] = {}
    rounding = {
        name.removeprefix("rounding/"): float(value)
        for name, value in theirs.items()
        if name.startswith("rounding/") and np.isfinite(value)
    }
    names = [name for name in theirs if not name.startswith("rounding/")]
    for name in [*names, *(ours.keys() - theirs.keys())]:
        kind = classify(name)
        row = rows.setdefault(kind.quantity, Row(kind))
        if name in ours and name in theirs:
            scale = None
            if kind.measure == "cancelled":
                scale = theirs[re.sub("bias$", "weight", name)]
            row.parts[name] = _difference(
                kind, ours[name], theirs[name], scale, rounding.get(name, 0.0)
            )
        elif name in theirs or not (partial or name.endswith("/ssim")):
            row.missing.append(name)
    return _sorted([row for row in rows.values() if row.parts or row.missing])


def _sorted(rows: Sequence[Row]) -> list[Row]:
    """By section as they come, within it by part of the network."""
    sections = [row.kind.quantity.partition(": ")[0] for row in rows]
    parts = list(_PARTS)

    def place(row: Row) -> tuple[int, int]:
        section, _, part = row.kind.quantity.partition(": ")
        return sections.index(section), parts.index(part) if part in parts else -1

    return sorted(rows, key=place)


def classify(name: str) -> Kind:
    """What an array belongs to."""
    first, _, rest = name.partition("/")
    if first == "degradation":
        if rest == "lr":
            return Kind(_DEGRADATIONS[rest], _ROUNDED_SHARE, "level")
        return Kind(_DEGRADATIONS[rest], FORWARD)
    if first == "distillation":
        return Kind(f"distillation loss: {rest}", FORWARD)
    if first in ("metrics", "images"):
        rest = rest.rpartition("/")[2]
        label = "" if first == "metrics" else "photographs: "
        if rest == "sr":
            return Kind(f"{label}SR, rounded", _ROUNDED_SHARE, "level")
        return Kind(
            f"{label}{rest.upper()}", PSNR if rest == "psnr" else 1e-5, "absolute"
        )

    what, _, rest = rest.partition("/")
    if what in ("evaluation", "training"):
        return Kind(f"{first}, {what}: {_part(rest)}", FORWARD)
    if what == "loss":
        return Kind(f"{first}, a step: {rest} loss", FORWARD)
    if what == "gradient":
        if re.fullmatch(_CANCELLED, rest):
            return Kind(f"{first}, gradients: cancelled biases", FORWARD, "cancelled")
        return Kind(f"{first}, gradients: {_part(rest)}", GRADIENT)
    if what == "after":
        for label, pattern in {
            "BatchNorm statistics": r".*running_",
            "queue pointer": r"E\.queue_ptr",
            "queue": r"E\.queue",
            "momentum parameters": r"E\.encoder_k",
        }.items():
            if re.match(pattern, rest):
                return Kind(f"{first}, a step: {label}", FORWARD)
    what, _, rest = rest.partition("/")
    section = f"{first}, trace"
    if what == "loss":
        return Kind(f"{section}: {rest} loss", TRACE)
    if re.fullmatch(_DRIFTING, rest):
        return Kind(f"{section}: cancelled biases, running means", TRACE)
    if rest.endswith("running_var"):
        return Kind(f"{section}: running variances", TRACE)
    if rest.startswith("E.queue"):
        return Kind(f"{section}: queue", TRACE)
    if rest.startswith("E.encoder_k"):
        return Kind(f"{section}: momentum parameters", TRACE)
    return Kind(f"{section}: parameters", _STEPS_SHARE, "steps")


def _part(name: str) -> str:
    return next(part for part, pattern in _PARTS.items() if re.match(pattern, name))


def _difference(
    kind: Kind,
    ours: np.ndarray,
    theirs: np.ndarray,
    scale: np.ndarray | None,
    rounding: float,
) -> Difference:
    if ours.shape != theirs.shape:
        return Difference(np.inf, np.inf, np.inf, theirs.size, 0.0)
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    apart = np.abs(a - b)
    absolute = float(apart.max(initial=0))
    norm, distance = np.linalg.norm(b), np.linalg.norm(apart)
    relative = float(distance / norm) if norm or distance else 0.0
    if kind.measure == "relative":
        return Difference(absolute, relative, relative, b.size, rounding)
    if kind.measure == "absolute":
        judged = absolute
    elif kind.measure == "steps":
        judged = float((~(apart <= _STEP)).mean())
    elif kind.measure == "level":
        level = 1.0 if ours.dtype == np.uint8 else 1 / 255
        share = float((apart > level / 2).mean())
        judged = share if absolute < 1.5 * level else np.inf
    else:  # either one against the kernel's gradient, not against each other
        judged = float(max(np.linalg.norm(a), norm) / np.linalg.norm(scale))
    return Difference(absolute, relative, judged, b.size, 0.0)


def format_table(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [("quantity", "arrays", "absolute", "relative", "tolerance", "verdict")]
    raised = False
    for row in rows:
        if not row.parts:
            lines.append((row.kind.quantity, "0", "", "", "", row.verdict))
            continue
        parts = row.parts.values()
        raised |= row.allowed > row.kind.tolerance
        lines.append(
            (
                row.kind.quantity,
                str(len(parts)),
                f"{max(part.absolute for part in parts):.1e}",
                f"{max(part.relative for part in parts):.1e}",
                _format_tolerance(row),
                row.verdict if row.verdict == "ok" else f"{row.verdict} {row.worst}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [first.ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(cells, widths[1:-1], strict=True)]
            + [last]
        )
        for first, *cells, last in lines
    ]
    failed = sum(row.verdict != "ok" for row in rows)
    text.append("")
    if raised:
        text.append(
            "* three times what float32 costs the reference itself, against its float64"
        )
    verdict = f"{failed} of {len(rows)} differ" if failed else f"all {len(rows)} agree"
    text.append(f"{verdict}.")
    return "\n".join(text)


def _format_tolerance(row: Row) -> str:
    if row.kind.measure == "level":
        return f"1 level in {row.kind.tolerance:.1%}"
    if row.kind.measure == "steps":
        return f"{1 - row.kind.tolerance:.0%} to {_STEP:.0e}"
    if row.kind.measure == "cancelled":
        return f"{row.kind.tolerance:.0e} of kernel's"
    if row.kind.measure == "absolute":
        unit = " dB" if row.kind.quantity.endswith("PSNR") else ""
        return f"{row.kind.tolerance:g}{unit} absolute"
    raised = row.allowed > row.kind.tolerance
    return f"{row.allowed:.0e}{'*' if raised else ''}"


def format_images(case: Case, ours: Arrays, theirs: Arrays) -> str:
    """PSNR of each photograph through both programs, in dB."""
    lines = [f"{'photograph':20} {'reference':>10} {'ours':>10} {'difference':>10}"]
    for index, name in enumerate(case.meta["images"]):
        a, b = (float(side[f"images/{index}/psnr"]) for side in (ours, theirs))
        lines.append(f"{name:20} {b:10.4f} {a:10.4f} {a - b:10.1e}")
    return "\n".join(lines)


def as_json(case: Case, rows: Sequence[Row], ours: Arrays, theirs: Arrays) -> str:
    """All of the table, and every array in it."""
    images = {
        name: {
            what: {"ours": float(ours[key]), "reference": float(theirs[key])}
            for what in ("psnr", "ssim")
            if (key := f"images/{index}/{what}") in theirs
        }
        for index, name in enumerate(case.meta["images"])
    }
    content = {
        "case": case.meta,
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "agrees": all(row.verdict == "ok" for row in rows),
        "rows": [
            {
                **row.kind._asdict(),
                "allowed": row.allowed,
                "verdict": row.verdict,
                "worst": row.worst if row.parts else None,
                "missing": row.missing,
                "arrays": {name: part._asdict() for name, part in row.parts.items()},
            }
            for row in rows
        ],
        "images": images,
    }
    return json.dumps(content, indent=1)


def format_precision(case: Case, theirs: Arrays) -> str:
    """What arithmetic costs: the student's SR in several, beside the reference's."""
    student = case.state("student")
    variables = {"params": student.params, "batch_stats": student.batch_stats}
    lines = [f"{'arithmetic':22} {'relative error':>14} {'PSNR, mean':>11} {'cost':>9}"]
    best = None
    for label, precision, dtype in (
        ("float32 (highest)", "highest", jnp.float32),
        ("JAX's default", "default", jnp.float32),
        ("bfloat16 throughout", "default", jnp.bfloat16),
    ):
        cast = jax.tree.map(lambda x, dtype=dtype: jnp.asarray(x, dtype), variables)

        @jax.jit
        def restore(lr: jax.Array, cast: Any = cast, dtype: Any = dtype) -> jax.Array:
            sr = case.network.apply(cast, lr.astype(dtype)).sr
            return 255 * sr.astype(jnp.float32)

        with jax.default_matmul_precision(precision):
            sr = np.asarray(restore(jnp.asarray(case.arrays["evaluation/lr"])))
            psnr = [
                metrics.psnr_y(
                    *our_side.restore_image(case, i, restore), border=case.scale
                )
                for i in range(len(case.meta["images"]))
            ]
        expected = 255 * np.moveaxis(theirs["student/evaluation/G/0"][0], -3, -1)
        error = np.linalg.norm(sr - expected) / np.linalg.norm(expected)
        line = f"{label:22} {error:14.1e}"
        if psnr:
            mean = float(np.mean(psnr))
            best = mean if best is None else best
            line += f" {mean:8.3f} dB {best - mean:6.3f} dB"
        lines.append(line)
    if not case.meta["images"]:
        lines.append("--images=FOLDER adds the cost in dB")
    if jax.default_backend() == "cpu":
        lines.append("On a CPU JAX's default is float32 throughout, as highest.")
    return "\n".join(lines)


def report(
    case: Case,
    theirs: Arrays,
    *,
    json_file: str | Path | None = None,
    precision: bool = False,
) -> bool:
    """Run our side, print the comparison, and say whether all agrees."""
    ours = our_side.everything(case)
    rows = table(ours, theirs, partial=case.meta.get("partial", False))
    weights = ", ".join(
        f"{role} {source}" for role, source in case.meta["weights"].items()
    )
    print(f"LightBSR x{case.scale}, setting {case.setting}; weights: {weights}\n")
    print(format_table(rows))
    if case.meta["images"]:
        print("\n" + format_images(case, ours, theirs))
    if not any(name.endswith("/ssim") for name in theirs):
        print("\nWithout SSIM: OpenCV was not installed where the reference ran.")
    if precision:
        print("\n" + format_precision(case, theirs))
    if json_file is not None:
        Path(json_file).write_text(as_json(case, rows, ours, theirs) + "\n")
    return all(row.verdict == "ok" for row in rows)
