"""Packing a run as one file, with the facts for its model card."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.models import packed
from lightbsr_jax.models.load import newest
from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training import log

Tree = dict[str, Any]

# Private fields of a config, which are not packed.
PATHS = (
    ("data", "hr"),
    ("data", "lr"),
    ("validation", "hr"),
    ("validation", "lr"),
    ("distillation", "teacher"),
    ("adversarial", "perceptual"),
)


class Facts(NamedTuple):
    """Facts about a packed network."""

    config: dict[str, Any]  # without PATHS
    step: int
    seconds: int | None  # of training; None without a log
    half: bool
    sha256: str
    bytes: int


def pack(
    workdir: str | Path, file: str | Path, *, half: bool, overwrite: bool = False
) -> Facts:
    """Writes the newest checkpoint's network as one file; returns its facts.

    Raises UserError if the file exists, unless `overwrite` is set.
    """
    if Path(file).suffix != packed.SUFFIX:
        raise UserError(f"{file}: the name must end in {packed.SUFFIX}")
    atomic.check_free(file, overwrite=overwrite)
    folder, wanted = packed.at_step(workdir)
    if wanted == packed.BEST:
        about, model = packed.read(packed.best(folder))
        step = about["step"]
    else:
        step, about, model = newest(folder, None if wanted is None else int(wanted))
    known = _known(folder, about["config"], step)
    atomic.replace(file, lambda new: packed.write(new, known, model, half=half))
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Facts(**known, half=half, sha256=digest, bytes=Path(file).stat().st_size)


def keep_best(workdir: Path, config: Tree, step: int, model: Tree) -> None:
    """Writes a run's {"params", "batch_stats", "basis"} as best.safetensors.

    The file has the format of `pack`.
    """
    known = _known(workdir, config, step)
    atomic.replace(
        workdir / packed.BEST_FILE,
        lambda new: packed.write(new, known, model, half=False),
    )


def best_step(workdir: Path) -> int | None:
    """The step of best.safetensors; None if it is missing or damaged."""
    try:
        return packed.read(packed.best(workdir))[0]["step"]
    except UserError:
        return None


def _known(workdir: Path, config: Tree, step: int) -> Tree:
    """Metadata of a packed file for a run's network at a step."""
    flat = flatten_dict(config)
    config = unflatten_dict({k: "" if k in PATHS else v for k, v in flat.items()})
    if config.get("init"):  # only the last part of a path
        config["init"] = Path(config["init"]).name
    return {"config": config, "step": step, "seconds": seconds(workdir, step)}


def seconds(workdir: str | Path, step: int) -> int | None:
    """Seconds of training up to `step`, from the run's log; None without a log."""
    if not Path(workdir, log.RECORDS).exists():
        return None
    records = log.records(workdir)
    timed = [r for r in records if "steps_per_second" in r and r["step"] <= step]
    steps = zip([0, *(r["step"] for r in timed)], timed, strict=False)
    return round(sum((r["step"] - then) / r["steps_per_second"] for then, r in steps))


def markdown(facts: Facts) -> str:
    """Makes a table of the facts for a model card."""
    config, spec = facts.config, ModelSpec.from_config(facts.config)
    schedule = config.get("schedule", {})
    data = config.get("data", {})
    text = json.dumps(config, sort_keys=True)
    rows = {
        "network": f"{spec.kind}, setting {spec.setting}, x{spec.scale}",
        "updates": str(facts.step),
    }
    if schedule:
        epochs = schedule["stage1_epochs"] + schedule["stage2_epochs"]
        rows["updates"] += f" of {epochs * schedule['steps_per_epoch']}"
        rows["batch"] = (
            f"{data['batch_size']} images, LR crops of {data['lr_crop']} pixels"
        )
        rows["learning rate"] = (
            f"{schedule['stage1_learning_rate']:g}, then {schedule['learning_rate']:g}"
        )
        if "final_learning_rate" in schedule:
            rows["learning rate"] += f" to {schedule['final_learning_rate']:g}"
        rows["computed in"] = config["compute"]["dtype"]
        rows["seed"] = str(config["seed"])
    if config.get("init"):
        rows["started from"] = config["init"]
    if facts.seconds is not None:
        rows["training"] = f"{facts.seconds / 60:.0f} minutes"
    rows["config"] = f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    rows["file"] = (
        f"{facts.bytes / 1e6:.1f} MB, float{16 if facts.half else 32} parameters,"
        f" SHA-256 {facts.sha256[:16]}"
    )
    lines = ["| | |", "|---|---|"]
    return "\n".join(lines + [f"| {k} | {v} |" for k, v in rows.items()]) + "\n"
