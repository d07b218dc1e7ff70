"""A small program for each target of `benchmarks.ahead`, where its compiler is there.

These are libtpu and JAX's plugin for CUDA; without them the tests are skipped.
"""

import argparse
import types
from collections.abc import Iterator
from importlib import util
from typing import Any

import jax
import pytest

from benchmarks import ahead
from lightbsr_jax.training.state import AdversarialState

SMALL = ["network.groups=1", "network.blocks=1", "data.lr_crop=16"]
CASES = [
    ("tpu:v5e:1x1", "resident:480"),
    ("tpu:v5e:1x1", "restore:1x64x64"),
    ("tpu:v5e:4x4", "student:1"),
    ("tpu:v4:2x2x4", "student:1"),
    ("tpu:v6e:2x4", "student:1"),
    ("gpu:h100", "restore:1x64x64"),
    ("gpu:h100x8", "student:1"),
]
CHIPS = {"tpu:v5e:4x4": 16, "tpu:v4:2x2x4": 16, "tpu:v6e:2x4": 8, "gpu:h100x8": 8}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment in which compilers need no device."""
    for name, value in ahead.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    jax.clear_caches()
    yield
    jax.clear_caches()


def record(name: str, program: str) -> dict[str, Any]:
    package = "libtpu" if name.startswith("tpu") else "jax_plugins.xla_cuda13"
    try:
        found = util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"needs {package} to compile for {name}")
    options = argparse.Namespace(
        preset="setting1", method="lightbsr", set=SMALL, keep=None
    )
    return ahead.record(name, program, options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "program"), CASES)
def test_compiles(name: str, program: str) -> None:
    row = record(name, program)
    assert "error" not in row, row["error"]
    assert 0 < row["total_gb"] < row["chip_gb"]
    if name.startswith("tpu"):
        assert row["cycles"] > 0 and row["loops_of_unknown_length"] == 0
        assert len(row["dearest"]) == 10 or program.startswith("resident")
    else:
        assert row["kernels"]["fusion"] > 0
    assert bool(row["collectives"]) == (CHIPS.get(name, 1) > 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tpu:v5e:1x1", "gpu:h100"])
def test_a_formulation_that_only_cpus_have_is_found(name: str, monkeypatch) -> None:
    """As the network's GELU: a call of a library, which a target's compiler lacks."""

    def of_a_library(x: Any) -> Any:
        call = jax.ffi.ffi_call("lightbsr_gelu", jax.ShapeDtypeStruct(x.shape, x.dtype))
        return call(x)

    operators_of_blocks = "lightbsr_jax.methods.lightbsr.adaptation.gelu"
    monkeypatch.setattr(operators_of_blocks, of_a_library)
    row = record(name, "restore:1x64x64")
    assert "lightbsr_gelu" in row["error"]


def test_unknown_targets_and_programs_are_told() -> None:
    options = argparse.Namespace(
        preset="setting1", method="lightbsr", set=[], keep=None
    )
    row = ahead.record("gpu:b200", "teacher:1", options)
    assert row["error"].startswith("target gpu:b200: expected")


def test_chips_without_figures_are_told(monkeypatch) -> None:
    found = types.SimpleNamespace(devices=[types.SimpleNamespace(device_kind="TPU v3")])
    get = "jax.experimental.topologies.get_topology_desc"
    monkeypatch.setattr(get, lambda **_: found)
    with pytest.raises(ValueError, match="tpu:v3:2x2: TPU v3 is not one of TPU v4, "):
        ahead.devices_of("tpu:v3:2x2")


def options_of(preset: str) -> argparse.Namespace:
    small = [*SMALL, "data.lr_crop=8", "data.batch_size=1"]
    return argparse.Namespace(preset=preset, method="lightbsr", set=small)


@pytest.mark.parametrize("preset", ["setting1-plain", "photo-gan"])
def test_the_state_of_a_preset_is_traced(preset: str) -> None:
    """Of one that starts as bicubic interpolation, and of one with a GAN loss."""
    options = options_of(preset)
    config = ahead._config("student", options)
    _, shapes, teacher = ahead._learner(config, "student", options)
    is_last_stage = preset.endswith("-gan")
    assert isinstance(shapes, AdversarialState) == is_last_stage
    assert (teacher is not None) == is_last_stage


def test_a_field_of_students_alone_is_set_in_them_alone() -> None:
    """Though a student's program has a teacher; a teacher's own program names it."""
    options = options_of("setting1")
    options.set.append("distillation.temperature=0.5")
    config = ahead._config("student", options)
    assert config.distillation is not None and config.distillation.temperature == 0.5
    _, _, teacher = ahead._learner(config, "student", options)
    assert teacher is not None
    message = r"teacher has no field distillation\.temperature: .* of other configs"
    with pytest.raises(ValueError, match=message):
        ahead.lowered("teacher:1", jax.devices()[:1], options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "preset", "metric"),
    [
        ("student:2", "setting1-plain", "reconstruction"),
        ("student:2", "photo-detail", "fake"),
        ("teacher:1", "setting1-short", "contrastive"),
    ],
)
def test_steps_of_presets_are_traced(program: str, preset: str, metric: str) -> None:
    """Of those, too, that keep the images on the device."""
    traced = ahead.lowered(program, jax.devices()[:1], options_of(preset))
    assert metric in traced.out_info[1]


def test_a_preset_without_the_stage_is_told() -> None:
    options = argparse.Namespace(preset="setting1-plain", method="lightbsr", set=SMALL)
    with pytest.raises(ValueError, match="setting1-plain of student has no stage 1"):
        ahead.lowered("student:1", jax.devices()[:1], options)


def test_a_step_that_needs_too_much_memory_names_the_fields(monkeypatch) -> None:
    def lowered(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 15.78G of 15.75G")

    chips = [types.SimpleNamespace(device_kind="TPU v5 lite")] * 2
    monkeypatch.setattr(ahead, "lowered", lowered)
    monkeypatch.setattr(ahead, "devices_of", lambda name: chips)
    options = argparse.Namespace(preset="setting1", method="lightbsr", set=[])
    row = ahead.record("tpu:v5e:1x2", "teacher:2", options)
    assert "32 images on each of 2 TPU v5 lite device(s)" in row["remedy"]
    assert "Take --config.compute.parts=2" in row["remedy"]
    assert "remedy" not in ahead.record("tpu:v5e:1x2", "degrade:1", options)


def test_the_table_names_what_does_not_compile() -> None:
    about = {"target": "tpu:v5e:1x1", "set": ["compute.parts=2"], "chip_gb": 16.9}
    rows = [
        {**about, "program": "teacher:1", "error": "RESOURCE_EXHAUSTED: 15.78G\nmore"},
        {
            **about,
            "program": "student:1",
            "total_gb": 1.5,
            "milliseconds_estimated": 8.64,
            "collectives": {"all-reduce": {"calls": 2, "bytes": 13_000_000}},
        },
    ]
    lines = list(ahead.table(rows))[2:]
    assert "does not compile: RESOURCE_EXHAUSTED: 15.78G |" in lines[0]
    assert lines[1] == (
        "| tpu:v5e:1x1 | student:1 | compute.parts=2 | 1.50 of 16.9 GB | 8.64 ms | "
        "2 all-reduce (13 MB) |"
    )
