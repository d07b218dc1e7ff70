"""`lightbsr psnr`: PSNR and SSIM of two images under every convention."""

import argparse


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
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
        help="border in pixels that the paper's convention crops (default: 4)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Prints the tables. Raises UserError, FileNotFoundError."""
    from lightbsr_jax.evaluation import conventions

    print(conventions.compare(arguments.a, arguments.b, scale=arguments.scale), end="")
