"""Evaluate networks, or bicubic alone, on benchmark folders by the paper's protocol.

lightbsr eval --workdir=runs/student --benchmarks=data/Set5,data/Set14
lightbsr eval --method=bicubic --benchmarks=data/Set5 --report=results/bicubic

(In a clone: python eval.py ...) On a cluster, start one such command for each process,
with --distributed: the processes share the images, and the first one reports.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lightbsr_jax.commands import forwarding
from lightbsr_jax.errors import UserError

if TYPE_CHECKING:
    from absl.flags import FlagHolder


class _Flags(NamedTuple):
    method: FlagHolder
    workdir: FlagHolder
    weights: FlagHolder
    step: FlagHolder
    benchmarks: FlagHolder
    report: FlagHolder
    dump_lr: FlagHolder
    dump_sr: FlagHolder
    lr_dir: FlagHolder
    lpips: FlagHolder


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command; its options are flags."""
    forwarding.add(
        subparsers, "eval", main, help="evaluate networks by the paper's protocol"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates by the flags in `arguments` (default: those of the program)."""
    from lightbsr_jax.commands import flags

    flags.take(arguments)
    config = flags.define_config("benchmark")
    given = _define()
    flags.define_processes()

    def evaluate() -> None:
        for flag in given:
            if flag.value == "":
                raise UserError(f"--{flag.name}: an empty name: is a variable unset?")
        flags.join_processes()
        from lightbsr_jax import compilation
        from lightbsr_jax.evaluation.run import run

        sources = _sources(
            given.method.value,
            given.workdir.value,
            given.weights.value,
            given.step.value,
        )
        compilation.keep_compiled_programs()
        compilation.check_devices()
        run(
            config.value,
            sources=sources,
            folders=_split(given.benchmarks.value),
            report_folder=given.report.value,
            dump_lr=given.dump_lr.value,
            dump_sr=given.dump_sr.value,
            lr_folder=given.lr_dir.value,
            lpips=given.lpips.value,
        )

    flags.run(evaluate, about=__doc__)


def _define() -> _Flags:
    from absl import flags

    return _Flags(
        method=flags.DEFINE_enum(
            "method", "network", ("network", "bicubic"), "What to evaluate."
        ),
        workdir=flags.DEFINE_string(
            "workdir",
            None,
            "Folder of the training run to evaluate, or several separated by commas.",
        ),
        weights=flags.DEFINE_string(
            "weights",
            None,
            "Name of weights that come with the program, or a file: of lightbsr pack, "
            "or of the PyTorch reference (.safetensors, .pt, .pth).",
        ),
        step=flags.DEFINE_string(
            "step",
            None,
            "Which checkpoint of every --workdir: its number of updates, or best, "
            "which had the highest PSNR in validation (default: the newest). "
            "WORKDIR@STEP means the same for one of them.",
        ),
        benchmarks=flags.DEFINE_string(
            "benchmarks",
            None,
            "Folders of HR images, separated by commas (default: the config's).",
        ),
        report=flags.DEFINE_string(
            "report",
            None,
            "Folder for the report (default: below WORKDIR/evaluation/settingN, a "
            "folder for each set of benchmarks and step).",
        ),
        dump_lr=flags.DEFINE_string(
            "dump-lr",
            None,
            "Folder to write the LR images to, as DIR/BENCHMARK/CASE/IMAGE.png.",
        ),
        dump_sr=flags.DEFINE_string(
            "dump-sr",
            None,
            "Folder to write the SR images to, as DIR/BENCHMARK/CASE/METHOD/IMAGE.png.",
        ),
        lr_dir=flags.DEFINE_string(
            "lr-dir", None, "Folder to read the LR images from, instead of making them."
        ),
        lpips=flags.DEFINE_string(
            "lpips",
            None,
            "File of torchvision's AlexNet or VGG16 (.safetensors, .pt, .pth), to "
            "measure LPIPS.",
        ),
    )


def _sources(
    method: str, workdirs: str | None, weights: str | None, step: str | None = None
) -> list[str]:
    """The sources of the networks. Raises UserError if they do not fit the method."""
    from lightbsr_jax.models import packed

    sources = [packed.folder(workdir) for workdir in _split(workdirs)]
    if step is not None:
        if not sources:
            raise UserError(f"--step={step} is of a training run: give its --workdir")
        sources = [packed.with_step(workdir, step) for workdir in sources]
    if weights:
        sources.append(packed.check_name(weights))
    if method == "bicubic" and sources:
        raise UserError(
            "--method=bicubic measures no network: leave --workdir and --weights out"
        )
    if method == "network" and not sources:
        raise UserError(
            "no network to measure: give --workdir=FOLDER of a training run, or "
            "--weights=NAME of weights that come with the program; train one with "
            "train.py, or measure --method=bicubic, which needs none"
        )
    return sources


def _split(folders: str | None) -> list[str]:
    from lightbsr_jax.imaging import files

    return files.split_folders(folders) if folders else []
