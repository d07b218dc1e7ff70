"""The common inputs of a comparison, and its recordings.

A case is a flat dictionary of arrays: `weights/<role>/<name>` in torch's layouts with
the reference's names, and inputs by quantity, whose images are [..., H, W, C]. All
random numbers depend on seeds; seeded weights are not recorded but made again.
"""

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightbsr_jax import atomic
from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import degradation, files, kernels, prior, settings
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.interop import convert
from lightbsr_jax.methods import registry
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.recipe import (
    Adam,
    Adversarial,
    Contrast,
    Distillation,
    Recipe,
)
from lightbsr_jax.methods.registry import METHODS, Method
from lightbsr_jax.models import state_dict, torch_files, vgg_file
from lightbsr_jax.networks import vgg
from lightbsr_jax.parity import torch_discriminator
from lightbsr_jax.spec import RunSpec, method_of
from lightbsr_jax.training.state import State

Arrays = dict[str, np.ndarray]

STAGES = (1, 1, 1, 2, 2, 2)  # of the steps of a trace

_FORMAT = 2
_SEED = 0
_FIXED_DEGRADATION: dict[settings.Name, dict[str, float]] = {
    1: {"sig": 2.4},
    2: {"lambda_1": 3.5, "lambda_2": 1.5, "theta": 30, "noise": 10},
}


@dataclass(frozen=True)
class Compared:
    """Comparisons that only some methods have, in addition to the common ones."""

    random_degradations: bool = False
    distillation: bool = False  # distillation losses, computed separately
    # Gradients in float32. With many LeakyReLUs they cannot be compared: if rounding
    # changes the sign of a value near zero, a gradient changes by more than rounding.
    float32_gradients: bool = False


COMPARED = {"lightbsr": Compared(True, True, True)}


@dataclass(frozen=True)
class LastStage:
    """A published last stage with a GAN loss, in a folder of its own."""

    files: tuple[str, ...]  # that are used, and that identify the folder
    network: Mapping[str, int]  # sizes
    features: int  # of the discriminator
    adam: Adam  # of both networks


LAST_STAGES = {
    "kdsr": LastStage(
        files=(
            "kdsrgan/archs/TA_arch.py",
            "kdsrgan/archs/ST_arch.py",
            "kdsrgan/archs/discriminator_arch.py",
            "kdsrgan/losses/my_loss.py",
        ),
        network={"features": 128, "blocks": 42, "residual_blocks": 6},
        features=64,
        adam=Adam(b1=0.9, b2=0.99, eps=1e-8),
    )
}
# The roles of weights that only a last stage has.
DISCRIMINATOR = "discriminator"
PERCEPTUAL = "vgg"  # the network of the perceptual loss


@dataclass(frozen=True)
class Case:
    """Weights and inputs of a comparison, and their description."""

    meta: dict[str, Any]
    arrays: Arrays

    @property
    def scale(self) -> int:
        return self.meta["scale"]

    @property
    def setting(self) -> int:
        return self.meta["setting"]

    @property
    def fixed_degradation(self) -> Degradation:
        """The degradation of the photographs of the comparison."""
        given = self.meta["fixed_degradation"]
        if self.setting == 1:
            kernel = kernels.isotropic(np.array([given["sig"]]))
            return Degradation(kernel, np.zeros(1))
        l1, l2 = (np.array([float(given[f"lambda_{i}"])]) for i in (1, 2))
        kernel = kernels.anisotropic(l1, l2, np.radians([given["theta"]]))
        return Degradation(kernel, np.array([float(given["noise"])]))

    @property
    def method(self) -> Method:
        return method_of(self.meta)

    @property
    def compared(self) -> Compared:
        return COMPARED.get(self.run(self.roles[-1]).model.method, Compared())

    @property
    def recipe(self) -> Recipe:
        """The training parameters of both programs."""
        given = self.meta["recipe"]
        contrast, distillation = given["contrast"], given["distillation"]
        adversarial = given.get("adversarial")  # older recordings lack it
        return Recipe(
            adam=Adam(**given["adam"]),
            learning_rates=tuple(given["learning_rates"]),
            contrast=contrast and Contrast(**contrast),
            distillation=distillation and Distillation(**distillation),
            adversarial=adversarial and Adversarial(**adversarial),
        )

    @property
    def features(self) -> int:
        """The size of the discriminator of a last stage; 0 without."""
        return self.meta.get(DISCRIMINATOR, 0)

    @property
    def widths(self) -> tuple[int, ...]:
        """The sizes of the VGG19 of a last stage; empty without a perceptual loss."""
        return tuple(self.meta.get(PERCEPTUAL, ()))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the method; the last one needs nothing but the LR image."""
        return _roles(self.meta)

    @property
    def network(self) -> BlindNetwork:
        return self.run(self.roles[-1]).model.make_network()

    def run(self, role: str) -> RunSpec:
        """The spec of a role's weights."""
        return _run(self.meta, role)

    def state(self, role: str) -> State:
        """The weights of a role as a training state at step 0."""
        tensors = self.below(f"weights/{role}")
        found = state_dict.from_tensors("the case", tensors, self.run(role))
        return convert.to_state(found)

    def below(self, prefix: str) -> Arrays:
        """The arrays named prefix/NAME, by NAME."""
        return _below(self.arrays, prefix)


def make(
    *,
    scale: int,
    setting: settings.Name,
    method: str = "lightbsr",
    network: Mapping[str, int] | None = None,
    queue_size: int = state_dict.PUBLISHED_QUEUE,
    size: tuple[int, int] = (12, 16),
    batch: int = 2,
    crops: int = 3,
    stages: Sequence[int] = STAGES,
    discriminator: int = 0,
    widths: Sequence[int] = vgg.FEATURES,
) -> Case:
    """Makes a case with seeded weights and LR images of this `size` for training.

    `network` is {"groups", "blocks"} (default: the published sizes); `stages` are the
    stages of the training steps. With a `discriminator` of so many features it is one
    of `LAST_STAGES`, with a perceptual loss by a VGG19 of these `widths`.
    """
    published: Mapping[str, int] = registry.sizes(METHODS[method].network())
    recipe, stage = METHODS[method].recipe, LAST_STAGES.get(method)
    if discriminator and stage is not None:
        published, stages = stage.network, (2,) * len(stages)
        recipe = dataclasses.replace(recipe, adam=stage.adam)
    meta = {
        "format": _FORMAT,
        "method": method,
        "scale": scale,
        "setting": setting,
        "network": dict(network or published),
        "queue_size": queue_size,
        "prior_channels": settings.of(setting).prior_channels,
        "weights": dict.fromkeys(METHODS[method].roles, "seeded"),
        "stages": list(stages),
        "recipe": _json(recipe),
        "fixed_degradation": _FIXED_DEGRADATION[setting],
        "images": [],
    }
    if discriminator:
        meta |= {DISCRIMINATOR: discriminator, PERCEPTUAL: list(widths)}
        meta["weights"] |= {DISCRIMINATOR: "seeded", PERCEPTUAL: "seeded"}
    arrays = _inputs(meta, size, batch, crops)
    for role in meta["weights"]:
        arrays |= _seeded_weights(meta, role)
    return Case(meta, arrays)


def of_file(
    file: str | Path,
    *,
    scale: int | None,
    setting: int | None,
    discriminator: int = 0,
) -> Case:
    """Makes a case with a file's weights for a student, or a teacher and its student.

    Scale and setting may be None if the file stores them; most files do not store the
    setting, which is then 1. Raises UserError if they differ from the file's, and for
    settings that the published programs lack.
    """
    tensors = torch_files.read(file)
    run = state_dict.infer(file, tensors, setting, otherwise=1)
    state_dict.from_tensors(file, tensors, run)  # checks names and shapes
    role, stored = run.model.role, run.model.scale
    if scale not in (None, stored):
        raise UserError(f"{file} is a {role} of scale {stored}, not {scale}")
    if run.model.setting not in _FIXED_DEGRADATION:
        raise UserError(
            f"{file} is a {role} of setting {run.model.setting}, which the references "
            "lack: give weights of setting 1 or 2"
        )
    case = make(
        scale=stored,
        setting=run.model.setting,
        method=run.model.method,
        network=registry.sizes(run.model.make_network()),
        queue_size=run.contrast.queue_size
        if run.contrast
        else state_dict.PUBLISHED_QUEUE,
        discriminator=discriminator,
    )
    arrays, sources = dict(case.arrays), dict(case.meta["weights"])
    arrays |= {f"weights/{role}/{name}": tensor for name, tensor in tensors.items()}
    sources[role] = Path(file).name
    if "student" in sources and role == "teacher":
        # As at the start of a student's training: only its first convolution is random.
        for name, tensor in tensors.items():
            own = f"weights/student/{name.replace('encoder_q.', '')}"
            if own in arrays and "/E.E.0." not in own:
                arrays[own] = tensor
        sources["student"] = sources["teacher"]
    return Case({**case.meta, "weights": sources}, arrays)


def with_images(case: Case, folder: str | Path) -> Case:
    """Adds the photographs of a folder to a case, cropped to a multiple of the scale.

    Both programs restore the same LR images, because a single LR pixel that is rounded
    differently changes the SR image all around it.
    """
    names, arrays = [], dict(case.arrays)
    for index, (name, path) in enumerate(files.find_images(folder)):
        hr = files.read_rgb(path)
        height, width = (side - side % case.scale for side in hr.shape[:2])
        if min(height, width) < 12 + 2 * case.scale:
            raise UserError(
                f"{path}: {height}x{width} pixels are too few to compare: leave it out"
            )
        names.append(name)
        hr = hr[:height, :width].copy()
        arrays[f"images/{index}/hr"] = hr
        noise = None
        if case.setting == 2:
            shape = (height // case.scale, width // case.scale, 3)
            noise = np.random.default_rng([_SEED, index]).standard_normal(shape)
            arrays[f"images/{index}/noise"] = noise.astype(np.float32)
            noise = arrays[f"images/{index}/noise"][None]
        lr = degradation.synthesise(
            hr[None], case.fixed_degradation, noise, scale=case.scale
        )
        arrays[f"images/{index}/lr"] = np.rint(255 * lr[0]).astype(np.uint8)
    return Case({**case.meta, "images": names}, arrays)


def save(path: str | Path, case: Case, results: Arrays) -> None:
    """Writes a recording: the case without seeded weights, and a program's results."""
    seeded = {
        role for role, source in case.meta["weights"].items() if source == "seeded"
    }
    kept = {
        name: array
        for name, array in case.arrays.items()
        if not (name.startswith("weights/") and name.split("/")[1] in seeded)
    }
    kept |= {f"result/{name}": array for name, array in results.items()}
    meta = json.dumps({**case.meta, "checksum": _checksum(case)})

    def write(new: Path) -> None:
        with open(new, "wb") as file:  # numpy would add .npz to a name
            arrays: dict[str, Any] = {"meta": meta, **kept}
            np.savez_compressed(file, **arrays)

    atomic.replace(path, write)


def load(path: str | Path) -> tuple[Case, Arrays]:
    """Reads the case and the results of a recording. Raises UserError."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
        meta = json.loads(str(arrays.pop("meta")))
        found = meta["format"]
    except OSError:
        raise
    except Exception as error:  # numpy raises many kinds of errors for other files
        raise UserError(
            f"{path} is not a recording of lightbsr compare --record: {error}"
        ) from error
    if found != _FORMAT:
        raise UserError(
            f"{path} is a recording of format {found}, not {_FORMAT}: record it again "
            "with this version"
        )
    if "recipe" not in meta:
        meta["recipe"] = _recipe_before(meta)
    results = _below(arrays, "result")
    arrays = {n: a for n, a in arrays.items() if not n.startswith("result/")}
    for role, source in meta["weights"].items():
        if source == "seeded":
            arrays |= _seeded_weights(meta, role)
    case = Case(meta, arrays)
    if _checksum(case) != meta.pop("checksum"):
        raise UserError(
            f"{path}: the seeded weights differ from those of the recording: record it "
            "again with this version"
        )
    return case, results


def _recipe_before(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The training parameters of old recordings, which do not store them."""
    adam, rate = Adam(b1=0.9, b2=0.99, eps=1e-8), meta["learning_rate"]
    recipe = method_of(meta).recipe
    return _json(dataclasses.replace(recipe, adam=adam, learning_rates=(rate, rate)))


def _json(recipe: Recipe) -> dict[str, Any]:
    """Converts a recipe to JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def _below(arrays: Arrays, prefix: str) -> Arrays:
    return {
        name.removeprefix(f"{prefix}/"): array
        for name, array in arrays.items()
        if name.startswith(f"{prefix}/")
    }


def _roles(meta: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(method_of(meta).roles)


def _run(meta: Mapping[str, Any], role: str) -> RunSpec:
    described = {**meta, "role": role}
    if method_of(meta).contrasts and role != "student":
        described["contrast"] = {"queue_size": meta["queue_size"]}
    return RunSpec.from_config(described, "the case")


def _checksum(case: Case) -> int:
    value = 0
    for role in (*case.roles, DISCRIMINATOR, PERCEPTUAL):
        for name, tensor in sorted(case.below(f"weights/{role}").items()):
            value = zlib.crc32(name.encode() + tensor.tobytes(), value)
    return value


def _seeded_weights(meta: Mapping[str, Any], role: str) -> Arrays:
    if role in (DISCRIMINATOR, PERCEPTUAL):
        module = torch_discriminator if role == DISCRIMINATOR else vgg_file
        shapes = module.shapes(meta[role])
        names = {f"{role}/{name}": shape for name, shape in shapes.items()}
        return {f"weights/{name}": _draw(name, names[name]) for name in names}
    fixed = ("sub_mean", "add_mean", "num_batches_tracked", "queue_ptr")
    run = _run(meta, role)
    pixel_range = np.float32(method_of(meta).network.IMAGE_RANGE)
    drawn = {
        f"weights/{role}/{name}": zero
        if any(part in name for part in fixed)
        else _draw(f"{role}/{name}", zero.shape)
        for name, zero in state_dict.blank(run).items()
    }
    for name in drawn:
        if name.endswith(".E.0.weight"):  # the estimator's first layer: input is pixels
            drawn[name] = drawn[name] / pixel_range
        if name.endswith(".kernel.2.weight"):  # its outputs are kernels of nine taps
            drawn[name] = drawn[name] / 3
    return drawn


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws a tensor with which signals keep their size and every block matters."""
    rng = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
    if "encoder_k" in name:
        # Near the encoder, as in training: keys are nearer than negatives.
        numbers = _draw(name.replace("encoder_k", "encoder_q"), shape)
        if len(shape) > 1:
            own = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
            numbers = 0.6 * numbers + 0.8 * own
    elif name.endswith("queue"):
        numbers = rng.standard_normal(shape)
        numbers /= np.linalg.norm(numbers, axis=0)
    elif name.endswith("running_var"):
        numbers = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("gamma"):
        numbers = rng.uniform(-0.3, 0.3, shape)
    elif len(shape) > 1:
        numbers = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    else:
        numbers = 0.1 * rng.standard_normal(shape) + name.endswith("weight")
    return numbers.astype(np.float32)


def _inputs(
    meta: Mapping[str, Any], size: tuple[int, int], batch: int, crops: int
) -> Arrays:
    rng = np.random.default_rng(_SEED)
    scale, steps, (height, width) = meta["scale"], len(meta["stages"]), size

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, shape).astype(np.float32)

    def pixels(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, (*shape, 3), np.uint8)

    def vectors(*shape: int) -> np.ndarray:
        components = uniform(-0.5, 0.5, *shape, prior.KERNEL_CHANNELS)
        if meta["setting"] == 1:
            return components
        noise = np.repeat(uniform(0, 25, *shape, 1), 3, axis=-1)
        return np.concatenate([components, noise], axis=-1)

    # Sizes differ between rows and columns, and those for evaluation are not multiples
    # of 4, so that mistakes with sizes show.
    lr, odd = (11, 13), (height + 1, width + 2)
    hr = tuple(scale * side for side in lr)
    inputs = {
        "basis": prior.make_basis(_SEED),
        "degradation/hr": pixels(batch, 2, *hr),
        "degradation/sigma": uniform(0.3, 4, batch),
        "degradation/l1": uniform(0.3, 4, batch),
        "degradation/l2": uniform(0.3, 4, batch),
        "degradation/theta": uniform(0, math.pi, batch),
        # sigma; or theta, l1, l2 and the noise level
        "degradation/uniform": uniform(0, 1, 1 if meta["setting"] == 1 else 4, batch),
        "degradation/noise": rng.standard_normal((batch, 2, *lr, 3)).astype(np.float32),
        "metrics/first": pixels(batch, 2 * height + 20, 2 * width + 20),
        "metrics/second": pixels(batch, 2 * height + 20, 2 * width + 20),
        "distillation/channel_student": uniform(-1, 1, 4, 48),
        "distillation/channel_teacher": uniform(-1, 1, 4, 48),
        "distillation/spatial_student": uniform(-1, 1, 4, 6, 5, 8),
        "distillation/spatial_teacher": uniform(-1, 1, 4, 6, 5, 8),
        "evaluation/lr": uniform(0, 1, 1, *odd, 3),
        "evaluation/prior": vectors(1),
        "training/lr": uniform(0, 1, steps, batch, crops, height, width, 3),
        "training/prior": vectors(steps, batch),
        "training/hr": pixels(steps, batch, scale * height, scale * width),
    }
    if method_of(meta).privileged == "hr":
        inputs["evaluation/hr"] = pixels(1, *(scale * side for side in odd))
    return inputs
