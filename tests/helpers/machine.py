"""Places and ports of the machine that runs the tests, and XLA's flags for it."""

import importlib.metadata
import socket
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"


def quick_to_compile() -> str:
    """Flags with which XLA compiles in a fifth of the time, which is most of it.

    LLVM does not optimise, and kernels of fusions are written without MLIR, each in the
    program's one module. Newer versions of XLA have no such kernels, and end a process
    that asks for them.
    """
    flags = ["backend_optimization_level=0", "cpu_parallel_codegen_split_count=1"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags.append("cpu_use_fusion_emitters=false")
    return " ".join(f"--xla_{flag}" for flag in flags)


def unused_port() -> int:
    """An unused port of this machine."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
