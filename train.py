"""Train a teacher or a student.

python train.py --config=configs/teacher.py:setting1 --workdir=runs/teacher \\
    --config.data.hr=FOLDER

The flags and what they do: lightbsr_jax/commands/train.py, where `lightbsr train` has
them from too.
"""

from lightbsr_jax.commands import train

if __name__ == "__main__":
    train.main()
