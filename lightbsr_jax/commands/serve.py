"""`lightbsr serve`: open a local page to upscale pictures with."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightbsr_jax.commands import source, upscale
from lightbsr_jax.commands.printing import say
from lightbsr_jax.errors import UserError

if TYPE_CHECKING:
    from lightbsr_jax.inference.server import Server
    from lightbsr_jax.inference.studio import Studio

_ITS_OWN = ("127.0.0.1", "localhost", "0.0.0.0", "")  # this machine's page reaches them


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "serve",
        help="open a local page to upscale pictures with",
        description="Serve a page for your browser: drop pictures, compare, download. "
        "Only this machine can open it.",
    )
    source.add_options(parser)
    parser.add_argument(
        "--port", type=int, default=7860, help="port; 0: a free one (default: 7860)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on: 0.0.0.0 in a container, whose port is published to "
        "this machine alone (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--megapixels",
        type=float,
        default=16,
        help="largest accepted picture, in megapixels (default: 16)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C. Raises UserError, OSError.

    The page opens at once; everything slow follows in the background.
    """
    from lightbsr_jax.inference.server import ADDRESS, Server
    from lightbsr_jax.models import packed

    begin = time.monotonic()
    sources = offered(source.named(arguments))
    port, host, megapixels = arguments.port, arguments.host, arguments.megapixels
    if not 0 < megapixels < math.inf:
        raise UserError(f"--megapixels={megapixels}: expected a number above 0")
    weights = {name: packed.purpose(name) for name in sources}
    try:
        server = Server(weights, port=port, megapixels=megapixels, host=host)
    except (OSError, OverflowError) as error:  # in use, forbidden, or not a port
        given = f"--port={port}" if host == ADDRESS else f"--host={host} --port={port}"
        raise UserError(f"{given}: {error}; port 0 picks a free one") from error

    def say_ready() -> None:
        say(f"ready after {time.monotonic() - begin:.0f} s")

    with server:
        say(
            f"{opened(host, server.server_port)} (Ctrl-C ends); it accepts pictures "
            "while the network is being prepared"
        )
        server.prepare(lambda server: make_studio(server, sources), say_ready)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    if server.failure is not None:
        raise server.failure


def opened(host: str, port: int) -> str:
    """The address of the page, and what leads there if this machine's own does not."""
    from lightbsr_jax.inference.server import ADDRESS

    page = f"http://{ADDRESS}:{port}"
    if host in _ITS_OWN:
        return f"{page} is open"
    return (
        f"{host}:{port} is open to a tunnel or a published port {port}: the page "
        f"answers only as {page}"
    )


def offered(given: str) -> dict[str, str]:
    """Names and sources of the weights that the page offers, `given` first."""
    from lightbsr_jax.models import packed

    return {given: given} | {name: name for name in packed.shipped()}


def make_studio(server: Server, sources: Mapping[str, str]) -> Studio:
    """Makes the networks behind the page; slow imports happen here."""
    from lightbsr_jax import compilation
    from lightbsr_jax.imaging import files
    from lightbsr_jax.inference.studio import Studio

    compilation.keep_compiled_programs()
    upscale.open_devices(None)
    if not files.has_bundled():
        print(
            "the page shows no nearest known degradations: these need scikit-image's "
            "photographs (pip install scikit-image)",
            file=sys.stderr,
        )
    return Studio(
        lambda name: source.load(sources[name]),
        list(sources),
        server.turns,
        megapixels=server.megapixels,
        explains=files.has_bundled(),
    )
