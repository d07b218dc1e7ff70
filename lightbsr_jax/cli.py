"""The command `lightbsr`: what is neither training (train.py) nor measuring (eval.py).

Mistakes read as one line, `error: ...`, with exit status 2. Ctrl-C ends with 130, as a
shell has it.
"""

import argparse
import contextlib
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lightbsr_jax.command_line import extras_named, fail
from lightbsr_jax.errors import UserError

if TYPE_CHECKING:
    from lightbsr_jax.models.model import Model


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message} ({self.prog} --help shows how)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default the program's."""
    parser = _Parser(prog="lightbsr", description="LightBSR in JAX.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_upscale(commands)
    _add_serve(commands)
    _add_prepare(commands)
    _add_pack(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_compare(commands)
    _add_psnr(commands)
    parsed = parser.parse_args(arguments)
    # What Pillow warns of (many pixels, broken notes) is refused, or does no harm.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with extras_named():
            parsed.run(parsed)
    except (UserError, OSError) as error:
        fail(error)
    except KeyboardInterrupt as interrupt:  # maybe with what to do next
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        sys.exit(130)


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "prepare",
        help="cut training images into tiles that are quick to read",
        description="Cut images into tiles, kept without loss in a TFDS dataset that "
        "train.py takes in place of the folders, as --config.data.hr=DIR, for the same "
        "training in a fraction of the reading time. An interrupted run goes on with "
        "the same command. Images that cannot be read are left out and named.",
    )
    parser.add_argument(
        "--input",
        metavar="FOLDER",
        action="append",
        required=True,
        help="images, searched recursively; may be given several times",
    )
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="where DIR/df2k is written"
    )
    validation = parser.add_mutually_exclusive_group()
    validation.add_argument(
        "--validation",
        metavar="FOLDER",
        action="append",
        default=[],
        help="images for the validation split; may be given several times",
    )
    validation.add_argument(
        "--hold-out",
        metavar="COUNT",
        type=int,
        default=10,
        help="without --validation so many of the input's images, evenly spaced by "
        "name, are kept from training for it: default 10, 0 for none",
    )
    parser.add_argument(
        "--tile",
        metavar="PIXELS",
        type=_positive,
        default=480,
        help="side: default 480",
    )
    parser.add_argument(
        "--stride",
        metavar="PIXELS",
        type=_positive,
        help="distance of tiles: default their side. Less takes more space, and fewer "
        "tiles a crop",
    )
    parser.add_argument(
        "--workers", metavar="COUNT", type=_positive, help="threads: default one a core"
    )
    parser.set_defaults(run=_prepare)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _prepare(arguments: argparse.Namespace) -> None:
    from lightbsr_jax.data import command  # slow to import

    command.run(arguments)


def _add_upscale(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "upscale",
        help="upscale your own pictures",
        description="Upscale pictures of any size: PNG, JPEG, WebP, TIFF and BMP "
        "files, and folders of them. Depth, transparency, colour profile and metadata "
        "are kept. Exit status 1 where a picture could not be upscaled.",
    )
    parser.add_argument("input", nargs="+", help="picture, or folder of pictures")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="folder, which gets the structure of the folders given; or a file's name "
        "for a single picture",
    )
    _add_weights(parser)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--scale",
        type=float,
        help="how many times as large, by default as the network makes them: others "
        "are interpolated from that (Lanczos)",
    )
    size.add_argument(
        "--size", metavar="WxH", help="exact pixels; Wx or xH in proportion"
    )
    parser.add_argument(
        "--format",
        choices=("png", "jpg", "webp", "tif", "bmp"),
        help="by default that of the picture",
    )
    parser.add_argument(
        "--quality", type=int, default=95, help="1 to 100, of JPEG and WebP"
    )
    parser.add_argument("--suffix", default="", help="added to names, such as -x4")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite",
        dest="existing",
        action="store_const",
        const="overwrite",
        default="refuse",
        help="replace results that exist",
    )
    existing.add_argument(
        "--skip-existing",
        dest="existing",
        action="store_const",
        const="skip",
        help="leave results that exist as they are",
    )
    parser.add_argument(
        "--memory",
        metavar="GB",
        type=float,
        help="budget for the network's maps on each device; by default most of what "
        "is free. The result does not depend on it",
    )
    parser.add_argument(
        "--device", choices=("cpu", "gpu", "tpu"), help="by default the best there is"
    )
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32"
    )
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="average over flips and transpositions: 8 times as long, slightly better",
    )
    parser.add_argument(
        "--idr-from",
        metavar="PICTURE",
        help="restore by the degradation of another picture",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="also write how the network sees a picture's degradation: its maps (.png) "
        "and the nearest of known degradations (.json)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what would be made"
    )
    parser.set_defaults(run=_upscale)


def _upscale(arguments: argparse.Namespace) -> None:
    from lightbsr_jax import compilation
    from lightbsr_jax.inference import command

    compilation.keep_compiled_programs()
    source = _source(arguments)
    try:
        complete = command.run(arguments, lambda: _model(source))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("--skip-existing goes on from here") from None
    if not complete:
        sys.exit(1)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "serve",
        help="a local page to upscale pictures with",
        description="A page in your browser: drop a picture, compare, download. Only "
        "this machine can open it.",
    )
    _add_weights(parser)
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    parser.add_argument(
        "--megapixels", type=float, default=16, help="of a picture at most: default 16"
    )
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from lightbsr_jax import compilation
    from lightbsr_jax.inference import explain, page
    from lightbsr_jax.inference.upscaler import Upscaler

    compilation.keep_compiled_programs()
    model = _model(_source(arguments))
    upscaler = Upscaler(model)
    bank = explain.make_bank(upscaler, explain.known_degradations(model.setting))
    port, megapixels = arguments.port, arguments.megapixels
    try:
        server = page.Server(upscaler, bank, port=port, megapixels=megapixels)
    except (OSError, OverflowError) as error:  # taken, forbidden, or none
        raise UserError(f"--port={port}: {error}; 0 takes one that is free") from error
    with server:
        print(f"http://{page.ADDRESS}:{server.server_port} (Ctrl-C ends)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _add_weights(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--weights",
        metavar="NAME",
        help="weights that come with this program, by default setting2; or a file: of "
        "lightbsr pack, or of the PyTorch reference (.safetensors, .pt, .pth)",
    )
    source.add_argument("--workdir", help="folder of a student that you trained")


def _source(arguments: argparse.Namespace) -> str | Path:
    """What --weights or --workdir names, or the weights taken without them."""
    from lightbsr_jax.models import packed

    if arguments.workdir is not None:
        return Path(arguments.workdir)
    return packed.check_name(arguments.weights or packed.DEFAULT)


def _model(source: str | Path) -> "Model":
    """The model of weights by name, of a file of weights, or in a working directory."""
    from lightbsr_jax.models import packed
    from lightbsr_jax.models.model import Model

    if packed.find(source) or not Path(source).is_file():
        return Model.load(source)
    from lightbsr_jax.interop import convert

    return convert.load(source)


def _add_pack(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "pack",
        help="one file of a trained network, to pass on",
        description="Write the network of a working directory's newest checkpoint, "
        "with its config, as one file that --weights, Model.load and Upscaler.load "
        "take, and print what a model card should say about it.",
    )
    parser.add_argument("workdir", help="folder of a training run")
    parser.add_argument("out", help="ends in .safetensors")
    parser.add_argument(
        "--half", action="store_true", help="parameters in float16: half the size"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.set_defaults(run=_pack)


def _pack(arguments: argparse.Namespace) -> None:
    from lightbsr_jax import pack

    facts = pack.pack(
        arguments.workdir,
        arguments.out,
        half=arguments.half,
        overwrite=arguments.overwrite,
    )
    print(pack.markdown(facts), end="")


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="exchange weights with the PyTorch reference",
        description="Exchange weights with the PyTorch reference of LightBSR or one "
        "of its peers (the weights tell which), either way: from its state dict "
        "into a new working directory, which eval.py and train.py take as any other, "
        "or from a working directory's newest checkpoint, or weights that come with "
        "this program, into a state dict. State dicts end in .pt or .pth (these take "
        "PyTorch) or .safetensors.",
    )
    parser.add_argument(
        "source", help="state dict, working directory, or name of weights (setting2)"
    )
    parser.add_argument("out", help="working directory, or state dict")
    parser.add_argument(
        "--pca",
        metavar="FILE.mat",
        help="the prior's basis, in the reference's PCA_matrix.mat: read beside a "
        "state dict, without which a teacher is of no use; written beside one",
    )
    parser.add_argument(
        "--setting",
        type=int,
        choices=(1, 2),
        help="what a state dict was trained for, which but for LightBSR's teachers' it "
        "does not tell: 1 (isotropic blur) or 2 (anisotropic blur and noise)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a state dict that exists"
    )
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> None:
    from lightbsr_jax.interop import convert  # slow to import
    from lightbsr_jax.models import packed

    source, out = arguments.source, arguments.out
    if Path(source).is_dir() or packed.find(source):
        if arguments.setting is not None:
            raise UserError(f"--setting is for state dicts: {source} knows its own")
        what = convert.to_file(
            source, out, basis_file=arguments.pca, overwrite=arguments.overwrite
        )
    else:
        if arguments.overwrite:
            raise UserError("--overwrite replaces state dicts, not working directories")
        what = convert.to_workdir(
            source, out, basis_file=arguments.pca, setting=arguments.setting
        )
    print(f"{source} -> {out}: {what}")


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export",
        help="write the network for other programs: ONNX or StableHLO",
        description="Write a student's network with its weights as a file that runs "
        "without this package, and compare the file with the network on an image. "
        ".onnx maps lr [B, 3, h, w] to sr [B, 3, H, W] and takes the packages onnx and "
        "onnxruntime; .stablehlo, which jax.export.deserialize reads, maps "
        "[B, h, w, 3] to [B, H, W, 3] and takes flatbuffers. All is RGB in [0, 1].",
    )
    parser.add_argument(
        "workdir",
        help="folder of a trained student, its state dict, or the name of weights that "
        "come with this program",
    )
    parser.add_argument("out", help="ends in .onnx or .stablehlo")
    parser.add_argument(
        "--size", metavar="WxH", help="of the only LR images it takes; by default any"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from lightbsr_jax import compilation
    from lightbsr_jax.interop import export

    compilation.keep_compiled_programs()
    size = None
    if arguments.size is not None:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", arguments.size)
        if match is None:
            raise UserError(f"--size={arguments.size}: expected WIDTHxHEIGHT")
        size = int(match[2]), int(match[1])
    model = _model(arguments.workdir)
    export.write(model, arguments.out, size, overwrite=arguments.overwrite)
    difference = export.difference(model, arguments.out, size)
    print(
        f"{arguments.workdir} -> {arguments.out}: differs from the network by at most "
        f"{difference:.1e} on a photograph"
    )


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="run the PyTorch reference beside this program",
        description="Run the PyTorch reference and this program on the same weights "
        "and inputs and show where they agree and by how much: degradations, metrics, "
        "losses, every module, gradients, BatchNorm, the queue and six steps of "
        "training. Exit status 1 where they differ by more than the tolerance.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--reference",
        metavar="DIR",
        help="your checkout of github.com/MJ-NCEPU/LightBSR, of KDSR "
        "(github.com/Zj-BinXia/KDSR) or of DASR (github.com/"
        "The-Learning-And-Vision-Atelier-LAVA/DASR): nothing is written to it, and it "
        "runs with or without CUDA (takes PyTorch, and OpenCV for SSIM)",
    )
    source.add_argument(
        "--replay", metavar="FILE", help="compare with a recording, without PyTorch"
    )
    parser.add_argument(
        "--record",
        metavar="FILE.npz",
        help="only run the reference, and save its side with the inputs (300 MB)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a state dict of the reference's; else seeded random weights in which "
        "every block matters",
    )
    parser.add_argument("--scale", type=int, choices=(2, 3, 4), help="default 4")
    parser.add_argument("--setting", type=int, choices=(1, 2), help="default 1")
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="photographs to degrade, restore and score through both programs",
    )
    parser.add_argument("--json", metavar="FILE", help="every array's difference")
    parser.add_argument(
        "--precision",
        action="store_true",
        help="also show what float32, JAX's default (TF32 on recent GPUs, bfloat16 "
        "products on TPUs) and bfloat16 cost",
    )
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    from lightbsr_jax.parity import case as cases
    from lightbsr_jax.parity import compare

    if arguments.record is not None and (arguments.json or arguments.precision):
        raise UserError(
            "--json and --precision are for --replay of what --record saves"
        )
    for path in filter(None, (arguments.record, arguments.json)):
        if not Path(path).resolve().parent.is_dir():
            raise UserError(f"{path}: there is no such folder")
    if arguments.replay is not None:
        for name in ("record", "weights", "scale", "setting", "images"):
            if getattr(arguments, name) is not None:
                raise UserError(f"--{name} is for --reference: a recording has its own")
        case, theirs = cases.load(arguments.replay)
    else:
        scale, setting = arguments.scale, arguments.setting
        if arguments.weights is not None:
            case = cases.of_file(arguments.weights, scale=scale, setting=setting)
        else:
            program, _ = compare.find_program(arguments.reference)
            case = cases.make(scale=scale or 4, setting=setting or 1, method=program)
        if arguments.images is not None:
            case = cases.with_images(case, arguments.images)
        theirs = compare.run_reference(arguments.reference, case)
    if arguments.record is not None:
        cases.save(arguments.record, case, theirs)
        print(f"{arguments.reference} -> {arguments.record}")
        return
    agrees = compare.report(
        case, theirs, json_file=arguments.json, precision=arguments.precision
    )
    if not agrees:
        sys.exit(1)


def _add_psnr(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "psnr",
        help="PSNR and SSIM of two images under every convention",
        description="PSNR and SSIM of two images, or of two folders of images of the "
        "same names, under every convention in use: why two programs differ. Where A "
        "is smaller than B by a whole factor: which bicubic made it.",
    )
    parser.add_argument("a", metavar="A", help="restored image, or folder")
    parser.add_argument("b", metavar="B", help="original image, or folder")
    parser.add_argument(
        "--scale",
        type=int,
        choices=(2, 3, 4),
        default=4,
        help="the border that the paper's convention cuts (default 4)",
    )
    parser.set_defaults(run=_psnr)


def _psnr(arguments: argparse.Namespace) -> None:
    from lightbsr_jax.evaluation import conventions

    print(conventions.compare(arguments.a, arguments.b, scale=arguments.scale), end="")
