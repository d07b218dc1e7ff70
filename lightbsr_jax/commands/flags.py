"""The flags of `lightbsr train` and `lightbsr eval`: absl flags and config fields.

A user's mistake prints one line, as in `mistakes`. A run that was interrupted and can
be resumed exits with status 75.
"""

import argparse
import difflib
import os
import re
import runpy
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from lightbsr_jax import config_files
from lightbsr_jax.commands import paths
from lightbsr_jax.commands.mistakes import extras_named, fail, one_line
from lightbsr_jax.errors import Interrupted, UserError

INTERRUPTED = 75  # os.EX_TEMPFAIL, which not every system defines


def take(arguments: Sequence[str] | None) -> None:
    """Makes `arguments` the program's arguments; None keeps the given ones."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        sys.argv[1:] = paths.expanded(given)
    except UserError as error:
        fail(error)


def define_config(default: str) -> flags.FlagHolder:
    """Defines --config=NAME[:PRESET], and --config.FIELD=VALUE for each of its fields.

    NAME is a config that comes with the program, or the path of a file: see
    `config_files.locate`. For an unknown field the program ends with the name of the
    nearest one; config_flags by itself would end it with a traceback.
    """
    config_files.make_importable()
    try:
        sys.argv[1:] = _located(sys.argv[1:])
        default = config_files.locate(default)
        _check_fields(sys.argv[1:], default)
    except (ValueError, OSError) as error:
        fail(error)
    return config_flags.DEFINE_config_file(
        "config",
        default,
        "Name of a config (teacher, student, ...) or its file, with a preset after a "
        "colon. --config.FIELD=VALUE changes a field.",
    )


def define_processes() -> None:
    """Defines the flags by which several processes find each other."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "Work together with the other processes of a SLURM or MPI job, of a TPU pod, "
        "or of a Kubernetes job.",
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "HOST:PORT of the first process, where processes are started by hand; "
        "--num_processes and --process_id go with it.",
    )
    flags.DEFINE_integer("num_processes", None, "How many processes are started.")
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def join_processes() -> None:
    """Connects to the other processes, if the flags name any.

    Call it before any computation. Raises UserError if they cannot be reached.
    """
    values = flags.FLAGS.flag_values_dict()
    by_hand = ("coordinator_address", "num_processes", "process_id")
    given = [name for name in by_hand if values[name] is not None]
    if given and len(given) < len(by_hand):
        missing = " and ".join(f"--{name}" for name in by_hand if name not in given)
        raise UserError(f"--{given[0]} goes with {missing}")
    if not (given or values["distributed"]):
        return
    import jax  # slow to import

    try:
        jax.distributed.initialize(*(values[name] for name in by_hand))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes cannot reach each other: {error} (set "
            "--coordinator_address, --num_processes and --process_id)"
        ) from error
    _check_devices([device.process_index for device in jax.devices()])
    _meet()


def _check_devices(processes: Sequence[int]) -> None:
    """Raises UserError unless all processes have equally many devices.

    `processes` are those of all devices.
    """
    counts = Counter(processes)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"process {i}: {counts[i]}" for i in sorted(counts))
        raise UserError(
            f"the processes have different numbers of devices ({listed}): give each "
            "the same number, for example by CUDA_VISIBLE_DEVICES"
        )


def _meet() -> None:
    """Sets up the collectives of the CPU while all processes wait here.

    Setting them up fails if one process arrives 30 seconds after another, for example
    after compiling or reading. Once they are set up, processes wait without a limit.
    """
    import jax
    from jax.experimental import multihost_utils

    # Between all devices, as in a step, and between each process's first, second, ...
    ones = jax.numpy.ones(jax.local_device_count())
    total = jax.pmap(lambda x: jax.lax.psum(x, "d"), "d")(ones)
    multihost_utils.process_allgather(total.addressable_data(0))


def run(main: Callable[[], Any], about: str | None = None) -> None:
    """Parses the flags, calls `main`, and prints a user's mistake as one line.

    --help shows the text `about` and the flags that this package defined.
    """
    if about is not None:
        sys.modules["__main__"].__doc__ = about  # where absl looks for it
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("lightbsr_jax."):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def checked_main(argv: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # the libraries log a lot as "info"
        if len(argv) > 1:
            fail(f"{argv[1]!r} is not a flag: values are given as --flag=value")
        try:
            with extras_named():
                main()
        except (UserError, OSError) as error:
            _leave(f"error: {one_line(error)}", status=2)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            sys.exit(INTERRUPTED)
        except KeyboardInterrupt:
            _leave("interrupted", status=130)
        except Exception:
            _leave(traceback.format_exc(), status=1)

    app.run(checked_main, flags_parser=_parse_flags)


def _leave(message: str, *, status: int) -> NoReturn:
    print(message, file=sys.stderr)
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        # JAX's shutdown would wait for processes that wait for this one.
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # after --help, where absl leaves with status 1
        sys.exit(0)
    except flags.Error as error:
        fail(f"{error} (--help lists the flags)")


def _located(arguments: Sequence[str]) -> list[str]:
    """Replaces the name of the config in the arguments by the path of its file."""
    located = list(arguments)
    for index, argument in enumerate(located):
        if argument in ("--config", "-config") and index + 1 < len(located):
            located[index + 1] = config_files.locate(located[index + 1])
        elif match := re.match(r"(--?config=)(.*)", argument, re.DOTALL):
            located[index] = match[1] + config_files.locate(match[2])
    return located


def _check_fields(arguments: Sequence[str], default: str) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-config", default=default)
    path, *preset = parser.parse_known_args(arguments)[0].config.split(":", 1)
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise UserError(f"--config={path}: the file defines no get_config")
    config = get_config(*preset)
    fields = _field_names(config.to_dict())
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if match and match[1] not in fields:
            nearest = difflib.get_close_matches(match[1], fields, n=1, cutoff=0)[0]
            raise UserError(
                f"the config has no field {match[1]!r}: did you mean "
                f"--config.{nearest}? (all: {', '.join(fields)})"
            )


def _field_names(fields: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in fields.items():
        names.append(prefix + name)
        if isinstance(value, dict):
            names += _field_names(value, f"{prefix}{name}.")
    return names
