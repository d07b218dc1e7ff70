"""Measures LightBSR, or bicubic, on benchmark folders by the paper's protocol.

python eval.py --workdir=runs/student --benchmarks=data/Set5,data/Set14
python eval.py --method=bicubic --benchmarks=data/Set5 --output=results/bicubic
"""

from pathlib import Path

from absl import flags

from lightbsr_jax import command_line
from lightbsr_jax.evaluation.run import METHODS, run
from lightbsr_jax.imaging import files

CONFIG = command_line.define_config(
    str(Path(__file__).parent / "configs" / "benchmark.py")
)
METHOD = flags.DEFINE_enum("method", "lightbsr", METHODS, "What to measure.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the training run to measure.")
BENCHMARKS = flags.DEFINE_string(
    "benchmarks", "", "Folders of HR images, separated by commas; else the config's."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the report, by default WORKDIR/evaluation/settingN."
)


def main() -> None:
    print(
        run(
            CONFIG.value,
            method=METHOD.value,
            workdir=WORKDIR.value,
            folders=files.split_folders(BENCHMARKS.value) if BENCHMARKS.value else [],
            output=OUTPUT.value,
        )
    )


if __name__ == "__main__":
    command_line.run(main)
