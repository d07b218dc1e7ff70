"""Fetching weights from the Hugging Face Hub, by the optional huggingface_hub."""

import re
from pathlib import Path

from lightbsr_jax.errors import Extra, UserError
from lightbsr_jax.models.packed import SUFFIX

EXTRA = Extra("huggingface_hub", "hub")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def fetch(
    repository: str | Path, *, filename: str | None = None, revision: str | None = None
) -> Path:
    """The file with the weights of a repository ("owner/name"), fetched once.

    A repository needs exactly one .safetensors file, or `filename` names one of
    several. `revision` is a branch, a tag or a commit. A local folder laid out like a
    repository takes precedence. Only .safetensors files are fetched, which hold no
    code. Without a connection, files that were fetched before are used.

    Raises UserError, which names the repository, if it or the file cannot be had.
    """
    folder = Path(repository)
    if not folder.is_dir():
        folder = _snapshot(str(repository), filename, revision)
    found = sorted(folder.rglob(f"*{SUFFIX}"))
    names = [path.relative_to(folder).as_posix() for path in found]
    if filename is not None:
        if filename not in names:
            raise UserError(
                f"{repository} has no file {filename}: there are "
                f"{', '.join(names) or f'no {SUFFIX} files'}"
            )
        return folder / filename
    if len(found) != 1:
        there = f"{', '.join(names)}: name one by filename" if names else "none"
        raise UserError(f"{repository}: expected one {SUFFIX} file, there are {there}")
    return found[0]


def _snapshot(repository: str, filename: str | None, revision: str | None) -> Path:
    if _NAME.fullmatch(repository) is None:
        raise UserError(f"{repository!r}: neither a folder nor of the form owner/name")
    if filename is not None and not filename.endswith(SUFFIX):
        raise UserError(f"{filename}: only {SUFFIX} files are fetched")
    package = EXTRA.imported("weights of the Hugging Face Hub")
    wanted = filename or f"*{SUFFIX}"
    try:
        return Path(
            package.snapshot_download(
                repository, revision=revision, allow_patterns=[wanted]
            )
        )
    except Exception as error:  # the package lets those of HTTP clients pass
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{repository} cannot be fetched from the Hub: {reason}"
        ) from error
