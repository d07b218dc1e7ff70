"""Comparison of recipes for small budgets: PSNR after the same amount of training.

    python -m benchmarks.recipes --data FOLDER --validation FOLDER --steps 200 \\
        --only adam muon

Every candidate trains a student's network with L1 only, which takes most of the time of
all stages, from the same start. The number of steps is chosen so that all candidates
compute about the same amount: `--steps` is for 8 LR crops of 24 pixels and 64 blocks.
The rate rises over the first twentieth of the steps and falls linearly over the last
three tenths.

Prints the mean PSNR on luma of the central 256 x 256 pixels of some images under fixed
degradations, the steps, and the wall and processor seconds. On a busy machine, compare
processor seconds.
"""

import argparse
import json
import time
from typing import Any

VALIDATION_CROP = 256
EPOCHS = 40

CANDIDATES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam-2e-3": {"schedule.learning_rate": 2e-3},
    "muon": {"optimizer": "muon"},
    "muon-2e-3": {"optimizer": "muon", "schedule.learning_rate": 2e-3},
    "adam-3e-4": {"schedule.learning_rate": 3e-4},
    "muon-4e-3": {"optimizer": "muon", "schedule.learning_rate": 4e-3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="HR images to train on")
    parser.add_argument("--validation", default="scikit-image:test", metavar="FOLDER")
    parser.add_argument("--images", type=int, default=8, help="validation images")
    parser.add_argument("--setting", type=int, choices=(1, 2), default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--init", default="", help="initial weights of all candidates")
    parser.add_argument("--only", nargs="*", choices=CANDIDATES, default=[*CANDIDATES])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--json", metavar="FILE", help="append a line per candidate")
    arguments = parser.parse_args()
    common = dict(item.split("=", 1) for item in arguments.set)
    common = {name: json.loads(value) for name, value in common.items()}
    for name in arguments.only:
        result = trial(arguments, {**common, **CANDIDATES[name]})
        result = {"candidate": name, **common, "init": arguments.init, **result}
        print(json.dumps(result), flush=True)
        if arguments.json:
            with open(arguments.json, "a") as file:
                file.write(json.dumps(result) + "\n")


def configured(arguments: argparse.Namespace, fields: dict[str, Any]) -> Any:
    """The config of a trial."""
    from configs import student

    config = student.get_config(f"setting{arguments.setting}-plain").unlock()
    config.data.hr = arguments.data
    config.seed = arguments.seed
    config.optimizer = "adam"
    config.data.update(batch_size=8, lr_crop=24)
    config.schedule.learning_rate = 1e-3
    config.update_from_flattened_dict(fields)
    pixels = config.data.batch_size * config.data.lr_crop**2 / (8 * 24**2)
    # A group's convolutions cost about as much as three of its blocks.
    depth = 0.1 + 0.9 * config.network.groups * (3 + config.network.blocks) / 88
    steps = arguments.steps / pixels / depth
    config.schedule.update(
        steps_per_epoch=max(1, round(steps / EPOCHS)),
        stage2_epochs=EPOCHS,
        warmup_epochs=2,
        cooldown_epochs=12,
    )
    return config


def trial(arguments: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
    """Trains a candidate; returns its PSNR, losses, steps and seconds."""
    import jax

    from lightbsr_jax.data.sources import open_source
    from lightbsr_jax.training import initial, loop, parallel
    from lightbsr_jax.training.config import TrainingConfig
    from lightbsr_jax.training.setup import prepare
    from lightbsr_jax.training.state import fresh_run

    config = TrainingConfig.from_flags(configured(arguments, fields))
    source = open_source(config.data.hr, minimum=config.hr_crop)
    batches = loop.open_batches(config, source)
    given = initial.load(arguments.init) if arguments.init else None
    setup = prepare(config, loop.make_network(config), given)
    steps = loop.make_steps(config, setup)
    run = parallel.replicate(fresh_run(setup.state, averaged=config.ema_decay > 0))
    constants = loop.constants_on_devices(config, setup, batches)
    measure = measurement(arguments, config)

    total = config.schedule.total
    psnr = {0: measure(run)}
    losses = []
    run, _ = steps[2](run, next(batches), constants)  # compiles
    jax.block_until_ready(run)
    clock, processor = time.monotonic(), time.process_time()
    for _ in range(total - 1):
        run, metrics = steps[2](run, next(batches), constants)
        losses.append(float(metrics["reconstruction"]))
    clock, processor = time.monotonic() - clock, time.process_time() - processor
    psnr[total] = measure(run)
    return {
        "steps": total,
        "psnr": psnr,
        "losses": [round(loss, 2) for loss in losses],  # the same batches for all
        "seconds": round(clock),
        "processor_seconds": round(processor),
    }


def measurement(arguments: argparse.Namespace, config: Any) -> Any:
    """Makes measure(run), the mean PSNR of a run's network."""
    import jax
    import numpy as np

    from lightbsr_jax.data.sources import find_all
    from lightbsr_jax.evaluation import cases
    from lightbsr_jax.imaging import degradation, files, metrics
    from lightbsr_jax.training import parallel

    found = find_all(files.split_folders(arguments.validation))
    found = found[:: max(1, len(found) // arguments.images)][: arguments.images]
    crops = [centre(files.read_rgb(path)) for _, path in found]
    hr = np.stack(crops).astype(np.float32)
    kernels = [(2, 0.5, 0), (3.5, 2, 45), (4, 3, 165)]
    tested = cases.make(
        config.model.setting, kernel_parameters=kernels, noise_levels=[10]
    )
    rng = np.random.default_rng(0)
    lrs = []
    for case in tested:
        known = degradation.Degradation(
            *(np.repeat(x, len(hr), 0) for x in case.degradation)
        )
        small = VALIDATION_CROP // config.model.scale
        noise = rng.normal(size=(len(hr), small, small, 3)).astype(np.float32)
        lrs.append(degradation.synthesise(hr, known, noise, scale=config.model.scale))
    restore = jax.jit(config.model.make_network().apply)

    def measure(run: Any) -> float:
        variables = {"params": run.evaluated, "batch_stats": run.state.batch_stats}
        variables = parallel.on_first_device(variables)
        srs = [255 * np.asarray(restore(variables, lr).sr) for lr in lrs]
        scores = [
            metrics.psnr_y(np.clip(np.round(sr), 0, 255), hr, border=config.model.scale)
            for sr in srs
        ]
        return round(float(np.mean(scores)), 3)

    return measure


def centre(image: Any) -> Any:
    top, left = ((n - VALIDATION_CROP) // 2 for n in image.shape[:2])
    return image[top : top + VALIDATION_CROP, left : left + VALIDATION_CROP]


if __name__ == "__main__":
    main()
