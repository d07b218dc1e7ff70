"""`lightbsr export`: the network for other programs: ONNX, ncnn or StableHLO."""

import argparse
import re

from lightbsr_jax.commands import paths
from lightbsr_jax.commands.printing import say
from lightbsr_jax.errors import UserError


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "export",
        help="write the network for other programs: ONNX, ncnn or StableHLO",
        description="Write a student's network with its weights as a file that runs "
        "without this package, and compare the file with the network on an image. "
        ".onnx maps input [1, 3, h, w] to output [1, 3, H, W], clipped to 0..1, and "
        "requires the packages onnx and onnxruntime; .param, with a .bin of the same "
        "name, is for ncnn, maps data to output likewise and requires the package ncnn "
        "for the comparison; .stablehlo, which jax.export.deserialize reads, maps "
        "[B, h, w, 3] to [B, H, W, 3] and requires flatbuffers. All is RGB in [0, 1].",
    )
    parser.add_argument(
        "weights",
        type=paths.named,
        help="folder of a trained student (or WORKDIR@STEP, WORKDIR@best), its state "
        "dict, a file of lightbsr pack, or the name of weights that come with this "
        "program",
    )
    parser.add_argument(
        "out", help="file to write; ends in .onnx, .param or .stablehlo"
    )
    parser.add_argument(
        "--size", metavar="WxH", help="fixed input size (default: dynamic)"
    )
    parser.add_argument(
        "--batch",
        action="store_true",
        help="ONNX for any number of images at once (default: one)",
    )
    parser.add_argument(
        "--split",
        action="store_true",
        help="write NAME-estimator.onnx, from an image to its idr, and "
        "NAME-restorer.onnx, which restores by a given idr: one for all tiles of an "
        "image or all frames of a shot; they are not compared",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="ONNX with float16 weights and maps, ncnn with float16 kernels: half the "
        "size",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Writes the file and prints how far it is from the network. Raises UserError."""
    from lightbsr_jax import compilation
    from lightbsr_jax.interop import export
    from lightbsr_jax.models import load, packed

    compilation.keep_compiled_programs()
    compilation.check_devices()
    size = _parse_size(arguments.size)
    _check_options(arguments)
    weights = load.read(arguments.weights)
    model = load.model_for_pictures(weights, arguments.weights)
    shipped = arguments.weights in packed.shipped()
    licence = export.LICENCE if shipped else None
    form = export.Form(
        arguments.batch,
        license=licence,
        half=arguments.half,
        setting=weights.about is not None,  # a state dict does not store its own
    )
    existing = {"overwrite": arguments.overwrite}
    if arguments.split:
        files = export.write_split(model, arguments.out, size, form=form, **existing)
        say(f"{arguments.weights} -> {', '.join(map(str, files))}")
        return
    export.write(model, arguments.out, size, form=form, **existing)
    try:
        difference = export.difference(model, arguments.out, size)
    except UserError as error:  # a package is missing; the file is good
        say(
            f"{arguments.weights} -> {arguments.out}, not compared with the network: "
            f"{error}"
        )
        return
    say(
        f"{arguments.weights} -> {arguments.out}: differs from the network by at most "
        f"{difference:.1e} on a photograph"
    )


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises UserError for options that do not go with the kind of the file."""
    out = arguments.out
    if (arguments.batch or arguments.split) and not out.endswith(".onnx"):
        raise UserError(
            f"{out}: --batch and --split are for ONNX: give a name ending in .onnx"
        )
    if arguments.half and not out.endswith((".onnx", ".param")):
        raise UserError(
            f"{out}: --half is for ONNX and ncnn: give a name ending in .onnx or .param"
        )
    if arguments.size and out.endswith(".param"):
        raise UserError(f"{out}: ncnn takes images of any size: leave out --size")


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """The (height, width) of WxH."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--size={text}: expected WIDTHxHEIGHT")
    return int(match[2]), int(match[1])
