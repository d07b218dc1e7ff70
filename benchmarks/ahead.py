"""Compilation of programs for absent accelerators.

    pip install "libtpu==0.0.50.*"                  # TPUs: the version of jax[tpu]
    pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt      # GPUs: jax's version
    python -m benchmarks.ahead tpu:v5e:1x1 gpu:h100 --programs teacher:2 resident:480

A target is tpu:GENERATION:TOPOLOGY or gpu:h100[xN]. A program is CONFIG:STAGE, a step
of a config's preset (teacher, student, kdsr_teacher, kdsr_student, dasr) whose crops
come from the host, even if the preset keeps images on the device;
restore:BxHxW, the restoration of a batch by the student of --method; degrade:SETTING,
64 images of 4 crops; resident:WIDTH, a step's crops out of 4,000 tiles of that width.

The compiler of the target runs on this machine's processor and reports the memory. The
time of a TPU is estimated, not measured: the compiler's cycles, with the trip counts of
loops, divided by the chip's clock. There is no estimate for GPUs. Results go into
--json and replace those of the same name; --table prints them.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from importlib import metadata
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import hlo

PROGRAMS = (
    *(f"{name}:{stage}" for name in ("teacher", "student") for stage in (1, 2)),
    "restore:1x256x256",
    "degrade:1",
    "resident:480",
)
# The compiler of TPUs then queries no metadata server, and several may run at once.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Chip(NamedTuple):
    """Public figures of an accelerator, one JAX device."""

    memory: float  # GB
    clock: float = 0.0  # Hz, peak operations by those of a cycle; 0 without estimates


CHIPS = {
    "TPU v4": Chip(34.4, 1.05e9),
    "TPU v5 lite": Chip(16.9, 1.5e9),  # a program can use 15.75 GiB
    "TPU v5": Chip(102.0, 1.75e9),
    "TPU v6 lite": Chip(34.4, 1.75e9),
    "NVIDIA H100 80GB HBM3": Chip(84.9),
}
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 13 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def devices_of(target: str) -> list[Any]:
    """The devices of a target, to compile for. Raises ValueError for an unknown one.

    RuntimeError and others of JAX's where the target's compiler is not installed.
    """
    from jax.experimental import topologies

    kind, _, rest = target.partition(":")
    if kind == "tpu" and ":" in rest:
        generation, topology = rest.split(":", 1)
        options: dict[str, Any] = {}
        if generation == "v4":
            options["chip_config_name"] = "megacore"
        if topology in ("1x1", "1x1x1"):
            options["chips_per_host_bounds"] = (1, 1, 1)
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=rest, **options
        )
    elif match := re.fullmatch(r"gpu:h100(?:x(\d+))?", target):
        found = topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology=f"1x1x{match[1] or 1}"
        )
    else:
        raise ValueError(
            f"target {target}: expected tpu:v5e:4x4, gpu:h100x8 or the like"
        )
    kind = found.devices[0].device_kind
    if kind not in CHIPS:
        raise ValueError(f"target {target}: {kind} is not one of {', '.join(CHIPS)}")
    return list(found.devices)


def lowered(program: str, devices: Sequence[Any], options: argparse.Namespace) -> Any:
    """A program traced for the platform of the devices, ready to be compiled."""
    from lightbsr_jax import target

    kind, _, what = program.partition(":")
    with target.compiling_for(devices[0].platform):
        if _is_step(program):
            return _step(kind, int(what), devices, options)
        function, arguments = _ALONE[kind](what, options)
        return _on_one(function, arguments, devices[0])


def _is_step(program: str) -> bool:
    return program.partition(":")[0] not in _ALONE


def _remedy(program: str, devices: Sequence[Any], options: argparse.Namespace) -> str:
    """The words of training for a step that does not fit into a device's memory."""
    from lightbsr_jax.training import loop

    return loop.remedy(_config(program.partition(":")[0], options), devices)


def _shapes(tree: Any, sharding: Any = None) -> Any:
    import jax
    import numpy as np

    def shape(x: Any) -> Any:
        dtype = (
            x.dtype if hasattr(x, "dtype") else jax.dtypes.canonicalize_dtype(type(x))
        )
        return jax.ShapeDtypeStruct(np.shape(x), dtype, sharding=sharding)

    return jax.tree.map(shape, tree)


def _on_one(function: Callable[..., Any], arguments: Any, device: Any) -> Any:
    import jax

    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.jit(function).lower(*_shapes(arguments, sharding))


def _config(
    name: str, options: argparse.Namespace, *, skip_unknown: bool = False
) -> Any:
    """A config's preset with the changes of --set, in the form for training.

    Raises ValueError for fields that it lacks; `skip_unknown` leaves them out.
    """
    from importlib import import_module

    from ml_collections import ConfigDict

    from lightbsr_jax.training.config import TrainingConfig

    config = import_module(f"configs.{name}").get_config(options.preset)
    config = ConfigDict(config).unlock()
    for assignment in options.set:
        field, value = assignment.split("=", 1)
        try:
            old = reduce(getitem, field.split("."), config)
        except (KeyError, TypeError) as error:  # a group may be None
            if skip_unknown:
                continue
            raise ValueError(
                f"--set {assignment}: {name} has no field {field}: name programs of "
                "other configs by --programs"
            ) from error
        new = value == "True" if isinstance(old, bool) else type(old)(value)
        config.update_from_flattened_dict({field: new})
    if config.compute.dtype == "auto":  # all targets multiply bfloat16
        config.compute.dtype = "bfloat16"
    # The number of images is unknown; resident:WIDTH has the crops of some.
    config.data.resident = False
    return TrainingConfig.from_flags(config)


def _step(
    name: str, stage: int, devices: Sequence[Any], options: argparse.Namespace
) -> Any:
    """A training step on all of the devices, as `training.loop` makes it."""
    import jax
    import jax.numpy as jnp

    from lightbsr_jax.imaging import prior
    from lightbsr_jax.training import adversary, loop
    from lightbsr_jax.training.setup import Setup, Teacher, make_updates
    from lightbsr_jax.training.state import fresh_run
    from lightbsr_jax.training.steps import Constants

    config = _config(name, options)
    learner, state, variables = _learner(config, name, options)
    updates = make_updates(config, learner)
    if stage not in updates:
        raise ValueError(f"the preset {options.preset} of {name} has no stage {stage}")
    basis = jax.ShapeDtypeStruct(prior.BASIS_SHAPE, jnp.float32)
    teacher = None if variables is None else Teacher(name, variables, 0, 0)
    setup: Any = Setup(state, updates, basis, teacher)
    step = loop.make_steps(config, setup, devices)[stage]
    run = jax.eval_shape(partial(fresh_run, averaged=config.ema_decay > 0), state)
    size, count = config.hr_crop, len(devices)
    batch = (count, config.data.batch_size // count, config.crops, size, size, 3)
    constants = Constants(jax.ShapeDtypeStruct((), jnp.int32), basis, variables)
    if config.adversarial is not None and config.adversarial.perceptual:
        constants = constants._replace(
            vgg=adversary.load_vgg(config.adversarial.perceptual)
        )
    return step.lower(run, jax.ShapeDtypeStruct(batch, jnp.uint8), constants)


def _learner(config: Any, name: str, options: argparse.Namespace) -> Any:
    """The learner, the shapes of its state, and those of its teacher if it has one."""
    import jax

    from lightbsr_jax.training import loop, state
    from lightbsr_jax.training.setup import make_learner

    key = jax.random.key(0)
    learner = make_learner(config, loop.make_network(config))
    variables = jax.eval_shape(config.model.fresh_variables, key)
    teacher = None
    if config.distillation is not None:
        # A last stage has the teacher of the stages before.
        preset = options.preset.replace("-gan", "")
        own = argparse.Namespace(**{**vars(options), "preset": preset})
        teachers = _config(name.replace("student", "teacher"), own, skip_unknown=True)
        teacher = jax.eval_shape(teachers.model.fresh_variables, key)
        learner = learner._replace(sees_prior=True)
    if config.contrast is None:
        fresh = partial(state.fresh_train_state, optimizer=learner.optimizer)
        shapes = jax.eval_shape(fresh, variables)
        if (opponent := learner.adversary) is not None:
            add = partial(
                state.with_discriminator,
                discriminator=opponent.network,
                optimizer=opponent.optimizer,
            )
            shapes = jax.eval_shape(lambda s, k: add(s, key=k), shapes, key)
        return learner, shapes, teacher
    fresh = partial(
        state.fresh_contrastive_state,
        optimizer=learner.optimizer,
        queue_size=config.contrast.queue_size,
    )
    return (
        learner,
        jax.eval_shape(lambda v, k: fresh(v, key=k), variables, key),
        teacher,
    )


def _restore(what: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """Restoration of a batch by the student of --method."""
    import jax
    import jax.numpy as jnp

    students = {"lightbsr": "student", "kdsr": "kdsr_student", "dasr": "dasr"}
    config = _config(students[options.method], options)
    network = config.model.make_network(dtype=config.compute.dtype)
    variables = jax.eval_shape(config.model.fresh_variables, jax.random.key(0))
    lr = jax.ShapeDtypeStruct((*map(int, what.split("x")), 3), jnp.float32)

    def restore(variables: Any, lr: Any) -> Any:
        return 255 * network.apply(variables, lr).sr

    return restore, (variables, lr)


def _degrade(what: str, _: argparse.Namespace) -> tuple[Any, Any]:
    """Degradations of 64 images of 4 crops of 256 x 256, drawn and applied."""
    import jax
    import jax.numpy as jnp

    from lightbsr_jax.imaging import settings

    kind = settings.of(int(what) if what.isdigit() else what)

    def degrade(seed: Any, crops: Any) -> Any:
        keys = jax.random.split(jax.random.key(seed), len(crops))
        drawn = kind.sample(keys, width_max=4.0)
        return kind.apply(keys, crops, drawn, scale=4)

    seed = jax.ShapeDtypeStruct((), jnp.int32)
    return degrade, (seed, jax.ShapeDtypeStruct((64, 4, 256, 256, 3), jnp.uint8))


def _resident(what: str, _: argparse.Namespace) -> tuple[Any, Any]:
    """The crops of a step, 64 x 4 of 256 x 256, cut from 4,000 square tiles."""
    import jax
    import jax.numpy as jnp

    from lightbsr_jax import target
    from lightbsr_jax.data import resident
    from lightbsr_jax.data.pipeline import Places

    width, tiles, int32 = int(what), 4000, jnp.int32
    shape, dtype = (width * tiles, 3 * width), jnp.uint8
    if target.platform() == "tpu":
        shape, dtype = (width * tiles, width), jnp.uint32
    pixels = resident.Pixels(
        jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((tiles,), int32)
    )
    images, crops = (jax.ShapeDtypeStruct(s, int32) for s in ((64,), (64, 4)))
    places: Any = Places(images, crops, crops, images)
    return partial(resident.crops, size=256), (pixels, places)


# Programs other than steps, which run on a single device.
_ALONE = {"restore": _restore, "degrade": _degrade, "resident": _resident}


def record(name: str, program: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a program on a target, or the error of its compilation."""
    facts: dict[str, Any] = {"target": name, "program": program}
    facts |= {"preset": options.preset, "method": options.method, "set": options.set}
    began, devices = time.process_time(), []
    try:
        devices = devices_of(name)
        compiled = lowered(program, devices, options).compile()
    except Exception as error:  # any error is a result
        facts["error"] = _shortened(str(error) or repr(error))
        full = "RESOURCE_EXHAUSTED" in facts["error"]
        if devices and full and _is_step(program):
            facts["remedy"] = _remedy(program, devices, options)
        return facts
    facts["compile_cpu_seconds"] = round(time.process_time() - began)
    facts["versions"] = _versions()
    facts |= _facts(compiled, devices[0])
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        file = re.sub(r"\W+", "_", f"{name} {program} {' '.join(options.set)}")
        (options.keep / f"{file}.hlo").write_text(compiled.as_text())
    return facts


def _facts(compiled: Any, device: Any) -> dict[str, Any]:
    chip, memory = CHIPS[device.device_kind], compiled.memory_analysis()
    program = hlo.parse(compiled.as_text())
    held = {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    facts = {
        "device": device.device_kind,
        "memory_gb": {k: round(v / 1e9, 3) for k, v in held.items()},
        "total_gb": round(sum(held.values()) / 1e9, 3),
        "chip_gb": chip.memory,
        "collectives": program.collectives(),
    }
    if not chip.clock:
        return facts | {"kernels": program.kernels()}
    return facts | {
        "cycles": program.cycles,
        "milliseconds_estimated": round(1e3 * program.cycles / chip.clock, 3),
        "loops_of_unknown_length": program.unknown_trips,
        "dearest": [
            {
                "place": place[-100:],
                "operations": opcodes,
                "milliseconds": round(1e3 * cycles / chip.clock, 3),
                "percent": round(100 * cycles / max(program.cycles, 1), 1),
            }
            for place, opcodes, cycles in program.dearest(10)
        ],
    }


def _shortened(message: str) -> str:
    """The first lines of an error; compilers write pages."""
    return "\n".join(message.splitlines()[:12])[:1500]


def _versions() -> dict[str, str]:
    found = {}
    for package in ("jax", "libtpu", "jax-cuda13-plugin"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("label", "target", "program", "preset", "method")
    return tuple(str(row.get(n, "")) for n in names) + tuple(row["set"])


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The rows in Markdown."""
    yield "| target | program | | memory of a chip | by the estimate | collectives |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        about = " ".join([row.get("label", ""), *row["set"]]).strip()
        cells = [row["target"], row["program"], about]
        if "error" in row:
            cells += ["does not compile: " + row["error"].splitlines()[0][:80], "", ""]
        else:
            cells += [
                f"{row['total_gb']:.2f} of {row['chip_gb']:.1f} GB",
                _time(row),
                _collectives(row),
            ]
        yield f"| {' | '.join(cells)} |"


def _time(row: dict[str, Any]) -> str:
    if "milliseconds_estimated" in row:
        return f"{row['milliseconds_estimated']:.4g} ms"
    return f"{sum(row['kernels'].values())} launches"


def _collectives(row: dict[str, Any]) -> str:
    found = row["collectives"].items()
    parts = [f"{v['calls']} {k} ({v['bytes'] / 1e6:.3g} MB)" for k, v in found]
    return ", ".join(parts)


def main() -> None:
    """Compiles the programs of the command line for its targets."""
    head, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ahead",
        description=head,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", default=["tpu:v5e:1x1"])
    parser.add_argument("--programs", nargs="+", default=PROGRAMS)
    parser.add_argument("--preset", default="setting1", help="of the configs")
    parser.add_argument("--method", default="lightbsr", help="of restore")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        help="FIELD=VALUE of the programs' configs, all of which need the field",
    )
    parser.add_argument("--label", default="", help="of these results")
    parser.add_argument("--json", type=Path, help="file to put the results into")
    parser.add_argument("--keep", type=Path, help="folder for the programs' text, HLO")
    parser.add_argument("--table", action="store_true", help="print the file's table")
    options = parser.parse_args()
    file = options.json
    rows = json.loads(file.read_text()) if file and file.exists() else []
    if options.table:
        print(*table(rows), sep="\n")
        return
    os.environ.update(ENVIRONMENT)
    for name in options.targets:
        for program in options.programs:
            row = record(name, program, options)
            if options.label:
                row["label"] = options.label
            rows = [old for old in rows if _key(old) != _key(row)] + [row]
            if file:
                file.write_text(json.dumps(rows, indent=1) + "\n")
            print(json.dumps(row, indent=1), flush=True)


if __name__ == "__main__":
    main()
