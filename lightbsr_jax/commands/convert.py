"""`lightbsr convert`: exchange weights with the PyTorch reference."""

import argparse
from pathlib import Path

from lightbsr_jax.commands import paths, source
from lightbsr_jax.commands.printing import say
from lightbsr_jax.errors import UserError


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "convert",
        help="exchange weights with the PyTorch reference",
        description="Convert a state dict of the PyTorch programs of LightBSR, KDSR or "
        "DASR (recognised by its tensors) into a new working directory for eval.py and "
        "train.py; or convert a working directory's newest checkpoint, a file of "
        "lightbsr pack, or weights that come with this program, into a state dict; or "
        "copy the convolutions of torchvision's VGG19, for a perceptual loss, into a "
        "state dict. State dicts end in .pt or .pth (these require PyTorch) or "
        ".safetensors.",
    )
    parser.add_argument(
        "source",
        type=paths.named,
        help="state dict, working directory (or WORKDIR@STEP, WORKDIR@best), file of "
        "lightbsr pack, or name of weights (setting2)",
    )
    parser.add_argument(
        "out", type=paths.named, help="working directory, or state dict"
    )
    parser.add_argument(
        "--pca",
        metavar="FILE.mat",
        type=paths.named,
        help="the prior's basis, in the reference's PCA_matrix.mat: required to read a "
        "teacher's state dict; written beside a state dict",
    )
    parser.add_argument(
        "--setting",
        type=source.parse_setting,
        help="degradation setting the weights were trained for: 1 (isotropic blur), 2 "
        "(anisotropic blur and noise), jpeg, real or photo; unneeded for LightBSR "
        "teachers of settings 1, 2 and jpeg",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a state dict that exists"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Converts one way or the other. Raises UserError, OSError."""
    from lightbsr_jax import compilation
    from lightbsr_jax.interop import convert  # slow to import
    from lightbsr_jax.models import packed, torch_files

    compilation.check_devices()
    given, out = arguments.source, arguments.out
    is_step = packed.at_step(given)[1] is not None
    if Path(given).is_dir() or is_step or packed.find(given):
        if arguments.setting is not None:
            raise UserError(
                f"--setting is for state dicts: {given} stores its own setting"
            )
        spec = convert.to_file(
            given, out, basis_file=arguments.pca, overwrite=arguments.overwrite
        )
    elif Path(out).suffix in torch_files.SUFFIXES:
        for name in ("pca", "setting"):
            if getattr(arguments, name) is not None:
                raise UserError(
                    f"--{name} is for networks, and {out} must then be a folder: leave "
                    "it out to copy VGG19"
                )
        if not convert.vgg_to_file(given, out, overwrite=arguments.overwrite):
            raise UserError(f"{given} is a state dict already: {out} must be a folder")
        say(f"{given} -> {out}: VGG19 for config.adversarial.perceptual")
        return
    else:
        if arguments.overwrite:
            raise UserError("--overwrite replaces state dicts, not working directories")
        spec = convert.to_workdir(
            given, out, basis_file=arguments.pca, setting=arguments.setting
        )
    say(f"{given} -> {out}: {spec}")
