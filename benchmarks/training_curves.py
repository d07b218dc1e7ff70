"""The record of training runs: metrics.csv and curves.png from their metrics.jsonl.

    python -m benchmarks.training_curves runs/teacher2 runs/student2 --out=docs/setting2

The runs follow one another: a teacher, then its student.
"""

import argparse
import csv
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = (
    *("run", "step", "stage", "learning_rate", "steps_per_second"),
    *("contrastive", "reconstruction", "spatial", "channel", "gradient_norm"),
    *("validation_psnr", "validation_psnr_bicubic", "validation_ssim"),
)
PANELS = {
    "reconstruction": "L_SR (0..255)",
    "contrastive": "L_CL",
    "channel": "L_DL, channel",
    "learning_rate": "learning rate",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    records = [
        {"run": workdir.name, **json.loads(line)}
        for workdir in arguments.workdirs
        for line in (workdir / "metrics.jsonl").open()
    ]
    with (arguments.out / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(map(rounded, records))
    draw(records, arguments.out / "curves.png")


def rounded(record: dict) -> dict:
    return {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in record.items()}


def draw(records: list[dict], path: Path) -> None:
    """Losses, rate and validation over the steps of all runs, one after another."""
    figure, axes = plt.subplots(1, 1 + len(PANELS), figsize=(16, 3.2))
    start = 0
    for run in dict.fromkeys(record["run"] for record in records):
        own = [record for record in records if record["run"] == run]

        def curve(axis: plt.Axes, name: str, *, own=own, run=run, start=start) -> None:
            points = [(start + r["step"], r[name]) for r in own if name in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=f"{run} {name}"[:40])

        for axis, name in zip(axes[1:], PANELS, strict=True):
            curve(axis, name)
            axis.set(title=PANELS[name], xlabel="updates")
        for name in ("validation_psnr", "validation_psnr_bicubic"):
            curve(axes[0], name)
        start += max(record["step"] for record in own)
    axes[0].set(title="validation PSNR (dB)", xlabel="updates")
    axes[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
