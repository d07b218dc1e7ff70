"""Train a teacher or a student.

python train.py --config=configs/teacher.py:setting1 --workdir=runs/teacher \\
    --config.data.hr=FOLDER

On a cluster, one such command for each process, with --distributed. A run that is told
to stop (SIGTERM, Ctrl-C) ends with the exit status 75, and goes on where it was when
the same command is given again.
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
command_line.define_processes()


def main() -> None:
    command_line.join_processes()
    from lightbsr_jax import compilation
    from lightbsr_jax.training.loop import train

    compilation.keep_compiled_programs()
    train(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    command_line.run(main)
