"""`lightbsr prepare`: from the command line's arguments to a dataset and a summary."""

import contextlib
import io
from argparse import Namespace

from absl import logging
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from lightbsr_jax.data.df2k import Df2k


def run(arguments: Namespace) -> None:
    """Prepares what the command line names. Raises UserError, FileNotFoundError."""
    logging.set_verbosity(logging.ERROR)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True)
    bar = Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=not console.is_terminal,
    )
    task = bar.add_task("images", total=None)
    builder = Df2k(
        data_dir=arguments.output,
        inputs=arguments.input,
        validation=arguments.validation,
        hold_out=arguments.hold_out,
        tile=arguments.tile,
        stride=arguments.stride,
        workers=arguments.workers,
        on_progress=lambda done, total: bar.update(task, completed=done, total=total),
    )
    try:
        with bar, contextlib.redirect_stdout(io.StringIO()):  # TFDS chats
            builder.download_and_prepare()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here") from None
    about = builder.info.metadata
    for split, info in builder.info.splits.items():
        print(
            f"{builder.data_dir}: {split}: {len(about['images'][split])} images in "
            f"{info.num_examples} tiles, {info.num_bytes / 1e6:.0f} MB; "
            f"{len(about['skipped'][split])} left out"
        )
    for reason in builder.skipped:
        print(f"left out: {reason}")
