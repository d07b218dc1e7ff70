"""Fixtures for figures and images that are not part of the repository.

They lie in `shared`, next to the repository; tests that need them are skipped if they
are absent.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from helpers.machine import SHARED, quick_to_compile

# Before jax starts: the tests of several devices need some, and most of their time goes
# into compiling.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_force_host_platform_device_count=4",
        quick_to_compile(),
        os.environ.get("XLA_FLAGS", ""),
    )
)

import jax
import numpy as np
import pytest
from absl import logging

# Test files that take more than some seconds of a processor, most of it to compile.
SLOW = """
ablations api benchmark checkpoint cli compare contrast degradation df2k explain export
fourth_method idr in_parts inference initial interpolation jpeg lanes layers load loop
losses lpips networks noise optimizers parts peers pretrained prior processes realworld
reference_training resumption run settings spec steps strength synthesis training_config
video weights wheel
""".split()

# The slowest files. They run first, so that no process waits for another at the end.
FIRST = ["test_doc_blocks", "test_processes", "test_notebook"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of slow files, and those that use the fixture `torch`."""
    items.sort(key=lambda item: item.path.stem not in FIRST)
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker("slow")
        if "torch" in getattr(item, "fixturenames", ()):
            item.add_marker("torch")


def pytest_collection_finish() -> None:
    """Leaves what is imported out of the search for garbage, a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """PyTorch, for comparison with its own operators."""
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def goldens() -> np.lib.npyio.NpzFile:
    """Figures of the PyTorch reference at scale 4; images are [..., C, H, W]."""
    path = SHARED / "goldens" / "reference_x4.npz"
    if not path.exists():
        pytest.skip("needs the reference's figures (../shared/goldens)")
    return np.load(path)


@pytest.fixture(scope="session")
def benchmark_folder() -> Path:
    """The folder that holds Set5, Set14 and B100, each with its images in HR."""
    path = SHARED / "data" / "benchmark"
    if not path.exists():
        pytest.skip("needs the benchmark images (../shared/data/benchmark)")
    return path


@pytest.fixture(scope="module")
def highest_precision() -> Iterator[None]:
    """Products in float32 where a GPU would compute in TF32, a TPU in bfloat16."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Shares compiled programs between tests, since compiling takes most of the time.

    Workers of pytest-xdist share them, too.
    """
    if not jax.config.jax_compilation_cache_dir:
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            folder = folder.parent
        options = {
            "jax_compilation_cache_dir": str(folder / "compiled"),
            "jax_persistent_cache_min_compile_time_secs": 0.05,
        }
        for name, value in options.items():
            jax.config.update(name, value)
            os.environ[name.upper()] = str(value)  # for processes that tests start


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_given_back() -> Iterator[None]:
    """Frees programs: Linux allows 65,530 mappings, which a thousand would use up."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Restores the verbosity of logging, which commands change for the process."""
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)
