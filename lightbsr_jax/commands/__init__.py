"""The subcommands of `lightbsr`, one file each: `add` its options, `run` it.

Parsed arguments end here: the rooms get typed values and return typed results, and
text is made here. Rooms are imported while a command runs, so that --help is quick.
"""
