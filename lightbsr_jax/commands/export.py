"""`lightbsr export`: the network for other programs, as ONNX or StableHLO."""

import argparse
import re

from lightbsr_jax.commands import source
from lightbsr_jax.errors import UserError


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "export",
        help="write the network for other programs: ONNX or StableHLO",
        description="Write a student's network with its weights as a file that runs "
        "without this package, and compare the file with the network on an image. "
        ".onnx maps lr [B, 3, h, w] to sr [B, 3, H, W] and requires the packages onnx "
        "and onnxruntime; .stablehlo, which jax.export.deserialize reads, maps "
        "[B, h, w, 3] to [B, H, W, 3] and requires flatbuffers. All is RGB in [0, 1].",
    )
    parser.add_argument(
        "workdir",
        help="folder of a trained student, its state dict, or the name of weights that "
        "come with this program",
    )
    parser.add_argument("out", help="file to write; ends in .onnx or .stablehlo")
    parser.add_argument(
        "--size", metavar="WxH", help="fixed input size (default: dynamic)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the file and prints how far it is from the network. Raises UserError."""
    from lightbsr_jax import compilation
    from lightbsr_jax.interop import export

    compilation.keep_compiled_programs()
    size = _parse_size(arguments.size)
    model = source.load(arguments.workdir)
    export.write(model, arguments.out, size, overwrite=arguments.overwrite)
    difference = export.difference(model, arguments.out, size)
    print(
        f"{arguments.workdir} -> {arguments.out}: differs from the network by at most "
        f"{difference:.1e} on a photograph"
    )


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """The (height, width) of WxH."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--size={text}: expected WIDTHxHEIGHT")
    return int(match[2]), int(match[1])
