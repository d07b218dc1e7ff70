"""`lightbsr serve`: open a local page to upscale pictures with."""

import argparse
import contextlib
import sys

from lightbsr_jax.commands import source
from lightbsr_jax.errors import UserError


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "serve",
        help="open a local page to upscale pictures with",
        description="Serve a page for your browser: drop a picture, compare, download. "
        "Only this machine can open it.",
    )
    source.add_options(parser)
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument(
        "--megapixels",
        type=float,
        default=16,
        help="largest accepted picture, in megapixels (default: 16)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C. Raises UserError, OSError."""
    from lightbsr_jax import compilation
    from lightbsr_jax.imaging import files
    from lightbsr_jax.inference import explain
    from lightbsr_jax.inference.server import ADDRESS, Server
    from lightbsr_jax.inference.upscaler import Upscaler

    compilation.keep_compiled_programs()
    compilation.check_devices()
    model = source.load(source.named(arguments))
    upscaler = Upscaler(model)
    bank = None
    if files.has_bundled():
        bank = explain.make_bank(upscaler, explain.known_degradations(model.setting))
    else:
        print(
            "the page shows no nearest known degradations: these need scikit-image's "
            "photographs (pip install scikit-image)",
            file=sys.stderr,
        )
    port, megapixels = arguments.port, arguments.megapixels
    try:
        server = Server(upscaler, bank, port=port, megapixels=megapixels)
    except (OSError, OverflowError) as error:  # in use, forbidden, or not a port
        raise UserError(f"--port={port}: {error}; 0 picks a free port") from error
    with server:
        print(f"http://{ADDRESS}:{server.server_port} (Ctrl-C ends)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
