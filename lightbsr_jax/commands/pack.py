"""`lightbsr pack`: write a trained network as one file."""

import argparse

from lightbsr_jax.commands import paths
from lightbsr_jax.commands.printing import say_lines


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "pack",
        help="write a trained network as one file, to share it",
        description="Write the network of a working directory's newest checkpoint, "
        "with its config, as one file for --weights, Model.load and Upscaler.load, and "
        "print the facts for its model card.",
    )
    parser.add_argument(
        "workdir",
        type=paths.named,
        help="folder of a training run; WORKDIR@STEP for the checkpoint of a step, "
        "WORKDIR@best for the weights whose validation was best",
    )
    parser.add_argument(
        "out", type=paths.named, help="file to write; ends in .safetensors"
    )
    parser.add_argument(
        "--half", action="store_true", help="parameters in float16: half the size"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the file and prints its facts. Raises UserError, OSError."""
    from lightbsr_jax import compilation
    from lightbsr_jax.training import pack

    compilation.check_devices()
    facts = pack.pack(
        arguments.workdir,
        arguments.out,
        half=arguments.half,
        overwrite=arguments.overwrite,
    )
    say_lines(pack.markdown(facts))
