"""Train a teacher or a student.

lightbsr train --config=teacher:setting1 --workdir=runs/teacher --config.data.hr=FOLDER

(In a clone: python train.py --config=configs/teacher.py:setting1 ...) On a cluster,
start one such command for each process, with --distributed. A run that is interrupted
(SIGTERM, Ctrl-C) exits with status 75; the same command resumes it.
"""

import argparse
from collections.abc import Sequence

from lightbsr_jax.commands import forwarding


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command; its options are flags."""
    forwarding.add(subparsers, "train", main, help="train a teacher or a student")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains by the flags in `arguments` (default: those of the program)."""
    from absl import flags as absl_flags

    from lightbsr_jax.commands import flags

    flags.take(arguments)
    config = flags.define_config("teacher")
    workdir = absl_flags.DEFINE_string(
        "workdir",
        None,
        "Folder for checkpoints, metrics and pictures.",
        required=True,
    )
    flags.define_processes()

    def train() -> None:
        flags.join_processes()
        from lightbsr_jax import compilation
        from lightbsr_jax.training import loop

        compilation.keep_compiled_programs()
        compilation.check_devices()
        loop.train(config.value, workdir.value)

    flags.run(train, about=__doc__)
