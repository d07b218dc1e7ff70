"""Places and ports of the machine that runs the tests."""

import socket
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"


def unused_port() -> int:
    """An unused port of this machine."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
