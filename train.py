"""Train a teacher or a student.

python train.py --config=configs/teacher.py:setting1 --workdir=runs/teacher \\
    --config.data.hr=FOLDER
"""

from pathlib import Path

from absl import flags

from lightbsr_jax import command_line

CONFIG = command_line.define_config(
    str(Path(__file__).parent / "configs" / "teacher.py")
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, metrics and pictures go.", required=True
)


def main() -> None:
    from lightbsr_jax.training.loop import train

    train(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    command_line.run(main)
