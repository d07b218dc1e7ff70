"""Commands in the process of the tests, as if each had a process of its own."""

import logging
import shlex
import sys

import pytest
from absl.flags import FLAGS

import configs
from lightbsr_jax import cli


def call(*arguments: str) -> None:
    """Runs `lightbsr ARGUMENTS`; restores what `train` and `eval` change for good.

    These define their flags, which absl takes only once in a process. The process has
    all of the tests' devices.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightbsr"])
        patch.setattr(sys.modules["__main__"], "__doc__", None, raising=False)
        patch.setitem(sys.modules, "configs", configs)
        try:
            cli.main(arguments)
        except SystemExit as ended:  # as absl ends every program
            assert not ended.code, shlex.join(arguments)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
            _forget_flags()


def _forget_flags() -> None:
    defined = {
        flag.name
        for module, flags in FLAGS.flags_by_module_dict().items()
        if module.startswith("lightbsr_jax.")
        for flag in flags
    }
    for name in list(FLAGS):
        if name in defined or name.startswith("config."):
            delattr(FLAGS, name)
