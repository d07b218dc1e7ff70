"""The subcommands of `lightbsr`, one file each: `add` its options, `run` it.

Only this folder handles parsed arguments and printed text: the other rooms take typed
values and return typed results. They are imported when a command runs, so that --help
is quick.
"""
