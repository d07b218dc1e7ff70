"""Comparison of recipes for small budgets: PSNR against minutes of training.

    python -m benchmarks.recipes --data FOLDER --validation FOLDER --minutes 5 \\
        --init setting1 --only muon adam

Every candidate trains a student's network by L1 alone, from the same start and for the
same time. Its first steps are timed to find how many fit in; compilation and validation
do not count. The learning rate rises over the first fortieth of the steps and falls
linearly to zero over the rest, unless a candidate says otherwise.

Prints, per candidate, the mean PSNR on luma of the central 256 x 256 pixels of some
images, each under three degradations of the setting, at fifths of the time. Run it on a
quiet machine.
"""

import argparse
import json
import time
from typing import Any

VALIDATION_CROP = 256
DRAWS = 3  # degradations of each image
EPOCHS = 40
MEASURED = 5  # times, besides the start
DETAIL = "detail"  # not a field: crops are the most detailed of so many

CANDIDATES: dict[str, dict[str, Any]] = {
    "muon": {},
    "muon-3e-4": {"schedule.learning_rate": 3e-4},
    "muon-2e-3": {"schedule.learning_rate": 2e-3},
    "muon-4e-3": {"schedule.learning_rate": 4e-3},
    "adam": {"optimizer": "adam"},
    "adam-3e-4": {"optimizer": "adam", "schedule.learning_rate": 3e-4},
    "4-crops": {"data.batch_size": 4},
    "16-crops": {"data.batch_size": 16},
    "crop-48": {"data.batch_size": 4, "data.lr_crop": 48},
    "plateau": {"schedule.cooldown_epochs": 12},
    "2-blocks": {"network.blocks": 2},
    "1-block": {"network.blocks": 1},
    "averaged": {"ema_decay": 0.98},
    "averaged-longer": {"ema_decay": 0.995},
    "detail": {DETAIL: 2, "data.resident": False},
    "more-detail": {DETAIL: 4, "data.resident": False},
    "rmse": {"pixel_loss": "rmse"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="HR images to train on")
    parser.add_argument("--validation", default="scikit-image:test", metavar="FOLDER")
    parser.add_argument("--images", type=int, default=8, help="validation images")
    parser.add_argument("--setting", default="1", help="1, 2, real or photo")
    parser.add_argument("--minutes", type=float, default=5.0, help="per candidate")
    parser.add_argument("--steps", type=int, help="per candidate, instead of minutes")
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


def configured(
    arguments: argparse.Namespace, fields: dict[str, Any], steps: int = EPOCHS
) -> Any:
    """The config of a trial of about that many steps."""
    from configs import student
    from lightbsr_jax.training.config import TrainingConfig

    named = arguments.setting in ("real", "photo")
    preset = arguments.setting if named else f"setting{arguments.setting}"
    config = student.get_config(f"{preset}-plain").unlock()
    config.data.hr = arguments.data
    config.seed = arguments.seed
    config.start = "random" if arguments.init else config.start
    config.ema_decay = 0.0
    config.data.update(batch_size=8, lr_crop=32)
    config.schedule.update(
        learning_rate=1e-3,
        steps_per_epoch=max(1, -(-steps // EPOCHS)),
        stage2_epochs=EPOCHS,
        warmup_epochs=1,
        cooldown_epochs=EPOCHS - 1,
    )
    config.update_from_flattened_dict({n: x for n, x in fields.items() if n != DETAIL})
    return TrainingConfig.from_flags(config)


def trial(arguments: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
    """Trains a candidate; returns its PSNRs in dB by minutes, losses and steps."""
    import jax

    from lightbsr_jax.data.sources import open_source
    from lightbsr_jax.training import initial, loop, parallel
    from lightbsr_jax.training.setup import prepare
    from lightbsr_jax.training.state import fresh_run

    config = configured(arguments, fields)
    source = open_source(config.data.hr, minimum=config.hr_crop)
    if DETAIL in fields:
        source = Detailed(source, fields[DETAIL])
    batches = loop.open_batches(config, source)
    given = initial.load(arguments.init) if arguments.init else None

    def prepared(config: Any) -> tuple[Any, Any, Any]:
        setup = prepare(config, loop.make_network(config), given)
        run = parallel.replicate(fresh_run(setup.state, averaged=config.ema_decay > 0))
        constants = loop.constants_on_devices(config, setup, batches)
        return loop.make_steps(config, setup)[2], run, constants

    step, run, constants = prepared(config)
    steps = arguments.steps
    if steps is None:
        taken = loop.seconds_per_step(step, run, batches, constants)
        steps = int(60 * arguments.minutes / taken)
    config = configured(arguments, fields, steps)
    step, run, constants = prepared(config)
    measure = measurement(arguments, config)

    total = config.schedule.total
    psnr = {0.0: measure(run)}
    losses, seconds = [], 0.0
    for part in range(MEASURED):
        count = total * (part + 1) // MEASURED - total * part // MEASURED
        sums = []
        began = time.monotonic()
        for _ in range(count):
            compiles = part == 0 and not sums
            run, metrics = step(run, next(batches), constants)
            sums.append(metrics["reconstruction"])
            jax.block_until_ready(sums[-1])
            if compiles:
                began = time.monotonic()
        seconds += time.monotonic() - began
        losses.append(round(sum(map(float, sums)) / count, 3))
        psnr[round(seconds / 60, 2)] = measure(run)
    batches.close()
    return {"steps": total, "psnr": psnr, "losses": losses}


class Detailed:
    """A source whose crops have the most detail of some random ones of an image.

    The first of these is the one that was asked for. Detail is the mean difference of
    neighbouring pixels.
    """

    def __init__(self, source: Any, choices: int) -> None:
        self._source, self._choices = source, choices

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def crops(self, image: int, tops: Any, lefts: Any, size: int) -> Any:
        """The crops [D, size, size, 3]; None if the image cannot be read."""
        import numpy as np

        rng = np.random.default_rng([image, *map(int, tops), *map(int, lefts)])
        room = self._source.sizes[image] - size + 1
        places = [np.stack([tops, lefts], 1)]
        places += [
            rng.integers(room, size=(len(tops), 2)) for _ in range(self._choices - 1)
        ]
        read = [self._source.crops(image, *place.T, size) for place in places]
        if any(crops is None for crops in read):
            return None
        found = np.stack(read)  # [choices, D, size, size, 3]
        levels = found.astype(np.float32)
        steps = (np.abs(np.diff(levels, axis=axis)) for axis in (2, 3))
        detail = sum(step.mean((2, 3, 4)) for step in steps)
        return found[detail.argmax(0), np.arange(len(tops))]


def measurement(arguments: argparse.Namespace, config: Any) -> Any:
    """Makes measure(run), the mean PSNR of a run's network in dB."""
    import jax
    import numpy as np

    from lightbsr_jax.data.sources import find_all
    from lightbsr_jax.imaging import files, metrics, settings
    from lightbsr_jax.training import parallel

    found = find_all(files.split_folders(arguments.validation))
    found = found[:: max(1, len(found) // arguments.images)][: arguments.images]
    hr = np.stack([centre(files.read_rgb(path)) for _, path in found])
    hr = np.repeat(hr.astype(np.float32), DRAWS, 0)
    keys = jax.random.split(jax.random.key(0), len(hr))
    setting = settings.of(config.model.setting)
    drawn = setting.sample(keys, width_max=config.degradation.width_max)
    lrs = setting.apply(keys, hr, drawn, scale=config.model.scale)
    restore = jax.jit(config.model.make_network().apply)

    def measure(run: Any) -> float:
        variables = {"params": run.evaluated, "batch_stats": run.state.batch_stats}
        variables = parallel.on_first_device(variables)
        scores = []
        for image, lr in zip(hr, lrs, strict=True):
            sr = 255 * np.asarray(restore(variables, lr[None]).sr)
            sr = np.clip(np.round(sr), 0, 255)
            score = metrics.psnr_y(sr, image[None], border=config.model.scale)
            scores.append(np.mean(score))
        return round(float(np.mean(scores)), 3)

    return measure


def centre(image: Any) -> Any:
    """The central pixels that are measured. Raises ValueError for smaller images."""
    if min(image.shape[:2]) < VALIDATION_CROP:
        raise ValueError(f"{image.shape[:2]} pixels: validation needs 256 x 256")
    top, left = ((n - VALIDATION_CROP) // 2 for n in image.shape[:2])
    return image[top : top + VALIDATION_CROP, left : left + VALIDATION_CROP]


if __name__ == "__main__":
    main()
