"""Curves of training runs: metrics.csv and curves.png from their metrics.jsonl.

    python -m benchmarks.training_curves runs/teacher2 runs/student2 --out=docs/setting2

The runs follow one another: a teacher, then its student.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from lightbsr_jax.training import log

COLUMNS = (
    *("run", "step", "stage", "learning_rate", "steps_per_second"),
    *("contrastive", "reconstruction", "spatial", "channel", "gradient_norm"),
    *("adversarial", "perceptual", "focal_frequency", "ms_ssim"),
    *("real", "fake", "discriminator_gradient_norm"),
    *("validation_psnr", "validation_psnr_bicubic", "validation_ssim"),
)
PANELS = {
    "validation PSNR (dB)": ("validation_psnr", "validation_psnr_bicubic"),
    "L_SR (0..255)": ("reconstruction",),
    "L_CL": ("contrastive",),
    "L_DL": ("channel", "spatial"),
    "GAN": ("adversarial", "real", "fake"),
    "perceptual": ("perceptual", "focal_frequency", "ms_ssim"),
    "learning rate": ("learning_rate",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        runs = read(arguments.workdirs)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for run, records in runs.items():
            writer.writerows({"run": run, **rounded(record)} for record in records)
    draw(runs, arguments.out / "curves.png")


def read(workdirs: list[Path]) -> dict[str, list[dict]]:
    """The records of each run, by the folder's name, or its path if that is shared.

    Raises ValueError for a run without records, and OSError.
    """
    names = [workdir.name for workdir in workdirs]
    unique = len({*names}) == len(names)
    runs = {w.name if unique else str(w): log.records(w) for w in workdirs}
    for name, records in runs.items():
        if not records:
            raise ValueError(f"{name} has no records yet: leave it out")
    return runs


def rounded(record: dict) -> dict:
    return {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in record.items()}


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """Draws a panel for each kind of curve, over the steps of all runs in order."""
    recorded = {name for records in runs.values() for r in records for name in r}
    panels = {title: names for title, names in PANELS.items() if recorded & {*names}}
    size = (3.2 * len(panels), 3.2)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        start = 0
        for run, records in runs.items():
            for name in names:
                found = [record for record in records if name in record]
                if not found:
                    continue
                steps = [start + record["step"] for record in found]
                values = [record[name] for record in found]
                axis.plot(steps, values, ".-", markersize=3, label=f"{run} {name}")
            start += records[-1]["step"]
        axis.set(title=title, xlabel="updates")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
