"""Reading and writing weight files of the PyTorch reference.

A state dict is a .pt or .pth file, which requires PyTorch, or a .safetensors file,
which does not. The basis of the prior is the variable p, 441 x 15, of a PCA_matrix.mat;
both programs apply it to the row-major kernel without a change.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
import scipy.io

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging.prior import BASIS_SHAPE

_TORCH = (".pt", ".pth")
_SAFETENSORS = ".safetensors"
SUFFIXES = (*_TORCH, _SAFETENSORS)
# Keys under which programs store a state dict; averaged weights come first.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "params_ema", "params", "net")
# Prefixes of DataParallel, of wrappers, and of torch.compile.
_PREFIX = re.compile(r"((module|model|params_ema|params|_orig_mod)\.)*")


def check_suffix(path: str | Path) -> None:
    """Raises UserError if a name does not end like a weight file."""
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"{path}: the name must end in one of {', '.join(SUFFIXES)}")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict by name, and removes wrappers around them.

    Real numbers of any width become float32. Code in the file is not executed. Raises
    UserError if the file holds no state dict.
    """
    path = Path(path)
    content = path.read_bytes()
    check_suffix(path)
    if path.suffix == _SAFETENSORS:
        tensors = _parsed(path, _parse_safetensors, content)
    else:
        tensors = _parsed(path, partial(_parse_torch, _torch(path)), content)
    if not isinstance(tensors, Mapping):
        raise UserError(f"{path} holds a {type(tensors).__name__}, not a state dict")
    others = [
        str(name)
        for name, tensor in tensors.items()
        if not (isinstance(name, str) and isinstance(tensor, np.ndarray))
    ]
    if others or not tensors:
        reason = "it is empty"
        if others:
            names = ", ".join(others[:3])
            reason = f"{len(others)} of {len(tensors)} are not named tensors ({names})"
        raise UserError(
            f"{path} holds no state dict: {reason}. Give the file with the model's "
            "weights, not the optimiser's"
        )
    averaged = [name for name in tensors if name.startswith("params_ema.")]
    chosen = averaged or tensors
    return {_PREFIX.sub("", name, count=1): _single(tensors[name]) for name in chosen}


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict atomically."""
    path = Path(path)
    check_suffix(path)
    plain = {name: tensor.copy() for name, tensor in tensors.items()}  # contiguous
    if path.suffix == _SAFETENSORS:
        atomic.replace(
            path,  # safetensors itself writes files that nobody else may read
            lambda new: new.write_bytes(
                safetensors.numpy.save(plain, {"format": "pt"})
            ),
        )
    else:
        torch = _torch(path)
        state_dict = {name: torch.from_numpy(t) for name, t in plain.items()}
        atomic.replace(path, lambda new: torch.save(state_dict, new))


def read_basis(path: str | Path) -> np.ndarray:
    """Reads the basis float32 [441, 15] of the prior. Raises UserError."""
    content = Path(path).read_bytes()
    variables = _parsed(path, lambda data: scipy.io.loadmat(BytesIO(data)), content)
    basis = variables.get("p")
    if basis is None:
        names = ", ".join(name for name in variables if not name.startswith("__"))
        raise UserError(f"{path} holds no variable p (it holds: {names or 'nothing'})")
    if basis.shape != BASIS_SHAPE or basis.dtype.kind != "f":
        raise UserError(
            f"{path}: p is {basis.dtype} {basis.shape}, but the basis of the prior is "
            f"a real matrix {BASIS_SHAPE}: give the PCA_matrix.mat of the teacher"
        )
    if not np.isfinite(basis).all():
        raise UserError(f"{path}: p holds values that are not finite: copy it again")
    return basis.astype(np.float32)


def write_basis(path: str | Path, basis: np.ndarray) -> None:
    """Writes the basis atomically."""
    atomic.replace(
        path, lambda new: scipy.io.savemat(new, {"p": basis}, appendmat=False)
    )


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: {path.suffix} files require PyTorch, which is not installed: pip "
            "install torch, or use a .safetensors file"
        ) from error
    return torch


def _single(tensor: np.ndarray) -> np.ndarray:
    """Converts real numbers of any width to float32."""
    real = tensor.dtype.kind == "f" or tensor.dtype == ml_dtypes.bfloat16
    return tensor.astype(np.float32) if real else tensor


def _parse_safetensors(content: bytes) -> dict[str, np.ndarray]:
    kinds = {"BF16": ml_dtypes.bfloat16}  # NumPy has no bfloat16
    found = {}
    for name, about in safetensors.deserialize(content):
        kind = kinds.get(about["dtype"]) or safetensors.numpy._TYPES[about["dtype"]]
        found[name] = np.frombuffer(about["data"], kind).reshape(about["shape"])
    return found


def _parse_torch(torch: ModuleType, content: bytes) -> Any:
    state_dict = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    for wrapper in _WRAPPERS:
        if isinstance(state_dict, Mapping) and wrapper in state_dict:
            state_dict = state_dict[wrapper]
    if not isinstance(state_dict, Mapping):
        return state_dict
    return {
        name: _array(torch, value) if torch.is_tensor(value) else value
        for name, value in state_dict.items()
    }


def _array(torch: ModuleType, tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return wide.numpy()


def _parsed(path: str | Path, parse: Callable[[bytes], Any], content: bytes) -> Any:
    """Parses a file; turns any error of the parser into a UserError."""
    try:
        return parse(content)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged, or holds more than tensors, which the safe loader "
            "refuses: save only model.state_dict()"
        ) from error
    except Exception as error:  # parsers raise many kinds of errors
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path} cannot be read: {type(error).__name__}: {reason}"
        ) from error
