"""Tiny networks in place of the weights that come with the package."""

from collections.abc import Mapping
from pathlib import Path

from helpers.reference_weights import reference_tensors, save
from lightbsr_jax.imaging import settings
from lightbsr_jax.interop import convert
from lightbsr_jax.training import pack


def pack_students(folder: Path, named: Mapping[str, settings.Name]) -> None:
    """Writes FOLDER/NAME.safetensors, a packed student, for each name and setting."""
    (folder / "made").mkdir(parents=True)
    for name, setting in named.items():
        workdir = folder / "made" / name
        state_dict = save(workdir.with_suffix(".safetensors"), reference_tensors())
        convert.to_workdir(state_dict, workdir, setting=setting)
        pack.pack(workdir, folder / f"{name}.safetensors", half=True)
