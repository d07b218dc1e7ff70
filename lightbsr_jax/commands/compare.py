"""`lightbsr compare`: compare the PyTorch reference with this program."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lightbsr_jax import atomic
from lightbsr_jax.commands import paths
from lightbsr_jax.commands.printing import say, say_lines
from lightbsr_jax.errors import UserError

if TYPE_CHECKING:
    from lightbsr_jax.parity.case import Arrays, Case
    from lightbsr_jax.parity.compare import Comparison


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "compare",
        help="compare the PyTorch reference with this program",
        description="Run the PyTorch reference and this program on the same weights "
        "and inputs and print the differences: degradations, metrics, losses, every "
        "module, gradients, BatchNorm, the queue and six training steps. Exit status 1 "
        "if a difference exceeds the tolerance.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--reference",
        metavar="DIR",
        type=paths.named,
        help="your checkout of github.com/MJ-NCEPU/LightBSR, of KDSR "
        "(github.com/Zj-BinXia/KDSR, or its folder KDSR-GAN) or of DASR (github.com/"
        "The-Learning-And-Vision-Atelier-LAVA/DASR). It is not modified, and it runs "
        "with or without CUDA (requires PyTorch, and OpenCV for SSIM)",
    )
    source.add_argument(
        "--replay",
        metavar="FILE",
        type=paths.named,
        help="compare with a recording, without PyTorch",
    )
    parser.add_argument(
        "--record",
        metavar="FILE.npz",
        type=paths.named,
        help="only run the reference, and save its outputs and the inputs (300 MB)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=paths.named,
        help="a state dict of the reference; default: seeded random weights in which "
        "every block matters",
    )
    parser.add_argument(
        "--scale",
        type=int,
        choices=(2, 3, 4),
        help="scale of the networks (default: that of --weights, else 4)",
    )
    parser.add_argument(
        "--setting",
        type=int,
        choices=(1, 2),
        help="degradation setting (default: that of a teacher's --weights, else 1)",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        type=paths.named,
        help="photographs to degrade, restore and score with both programs",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=paths.named,
        help="write every array's difference to this file",
    )
    parser.add_argument(
        "--precision",
        action="store_true",
        help="also print the errors of float32, of JAX's default precision (TF32 on "
        "recent GPUs, bfloat16 products on TPUs) and of bfloat16",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Compares, or records the reference's outputs; exits with 1 if they differ."""
    from lightbsr_jax.parity import case as cases
    from lightbsr_jax.parity import compare, report

    _check(arguments)
    if arguments.replay is not None:
        case, theirs = cases.load(arguments.replay)
    else:
        scale, setting = arguments.scale, arguments.setting
        program = compare.find_program(arguments.reference)
        features = program.features
        if arguments.weights is not None:
            case = cases.of_file(
                arguments.weights, scale=scale, setting=setting, discriminator=features
            )
        else:
            case = cases.make(
                scale=scale or 4,
                setting=setting or 1,
                method=program.method,
                discriminator=features,
            )
        if arguments.images is not None and features:
            raise UserError(
                f"--images does not work with {program.folder}, whose degradations "
                "are in another package: leave it out"
            )
        if arguments.images is not None:
            case = cases.with_images(case, arguments.images)
        theirs = compare.run_reference(arguments.reference, case)
    if arguments.record is not None:
        cases.save(arguments.record, case, theirs)
        say(f"{arguments.reference} -> {arguments.record}")
        return
    found = compare.with_ours(case, theirs)
    say_lines(_describe(case, found, theirs))
    if arguments.precision:
        print("\n" + report.precision(compare.precision(case, theirs)))
    if arguments.json is not None:
        text = report.as_json(case, found.rows, found.ours, theirs)
        atomic.write_text(arguments.json, text + "\n")
    if not found.agrees:
        sys.exit(1)


def _describe(case: Case, found: Comparison, theirs: Arrays) -> str:
    from lightbsr_jax.parity import compare, report

    weights = case.meta["weights"].items()
    sources = ", ".join(f"{role} {source}" for role, source in weights)
    title = case.method.title
    parts = [
        f"{title} x{case.scale}, setting {case.setting}; weights: {sources}",
        report.table(found.rows),
    ]
    if case.meta["images"]:
        parts.append(report.images(case, found.ours, theirs))
    if not compare.has_ssim(theirs) and not case.features:
        parts.append("No SSIM: OpenCV was not installed where the reference ran.")
    return "\n\n".join(parts)


def _check(arguments: argparse.Namespace) -> None:
    """Raises UserError for options that exclude each other, before any work."""
    if arguments.record is not None and (arguments.json or arguments.precision):
        raise UserError(
            "--json and --precision need a comparison, which --record does not make: "
            "give them to --replay"
        )
    for path in filter(None, (arguments.record, arguments.json)):
        atomic.check_free(path, overwrite=True)
        if not Path(path).resolve().parent.is_dir():
            raise UserError(f"{path}: its folder does not exist: create it first")
    if arguments.replay is not None:
        for name in ("record", "weights", "scale", "setting", "images"):
            if getattr(arguments, name) is not None:
                raise UserError(
                    f"--{name} works only with --reference: a recording fixes its own"
                )
