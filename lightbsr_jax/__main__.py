"""python -m lightbsr_jax: the command `lightbsr`."""

from lightbsr_jax.cli import main

main()
