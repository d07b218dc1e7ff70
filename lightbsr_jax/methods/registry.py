"""The methods, each described once: what training, weights and inference ask about it.

A method is a network (networks/NAME.py: an estimator, projector, converter and restorer
under these names), its `Method` here, and a config (configs/NAME.py). A run's config
says which method (`method`; LightBSR where it does not say), which role, and by its
groups `contrast` and `distillation` which update trains it (training/roles.py). All
else is shared. `METHODS` is everything there is; a fourth method is a fourth entry.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from lightbsr_jax.imaging import prior
from lightbsr_jax.methods import network as blind
from lightbsr_jax.methods.dasr.network import DASR
from lightbsr_jax.methods.kdsr.network import KDSR
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.methods.network import BlindNetwork

Names = dict[str, np.ndarray]  # torch's names of our layers, by path; stacked ones too
Shapes = Mapping[str, tuple[int, ...]]  # of tensors by their names

# Prefixes of torch's names: two branches that contrast, or a lone estimator.
PRINCIPAL, MOMENTUM = "E.encoder_q.", "E.encoder_k."
LONE = "E."
_UTILITIES = ("utils/util.py", "utility.py")  # that all the published programs have


@dataclass(frozen=True)
class Method:
    """What differs between methods, beside their networks and losses.

    A role is "teacher" or "student", or "network" where there are none of them.
    """

    title: str
    network: type[BlindNetwork]
    roles: Mapping[str, str]  # to the prefix of the estimator's names in torch
    # What a teacher's estimator sees beside the LR image.
    privileged: Literal["prior", "hr"] | None
    projecting: tuple[str, ...]  # roles that have a projector
    # A student starts with these modules of its teacher, and in stage 1 learns these.
    inherited: tuple[str, ...]
    distilled: tuple[str, ...]
    # Contrast of all crops of an image with one another, or of the first two.
    contrasts: Literal["all", "pair"] | None
    pixel_range: float  # in which L_SR is measured
    reference: str  # where the published program is
    checkout: tuple[str, ...]  # files that are used of it, and by which it is known
    published: Mapping[str, int]  # the network's sizes that are fixed in its code
    layers: Callable[[Any, str], Names] = field(repr=False)  # network, prefix
    recognise: Callable[[Shapes], tuple[BlindNetwork, str] | None] = field(repr=False)


def of(config: Mapping[str, Any]) -> Method:
    """The method of a run's config."""
    return METHODS[config.get("method", "lightbsr")]


def of_network(network: BlindNetwork) -> Method:
    """The method that has such a network."""
    return next(m for m in METHODS.values() if m.network is type(network))


def called(config: Mapping[str, Any]) -> str:
    """What a run trains, such as "teacher of KDSR"; LightBSR goes without saying."""
    method = of(config)
    named = "" if method is METHODS["lightbsr"] else f" of {method.title}"
    return config["role"] + named


def make_network(config: Mapping[str, Any], **options: Any) -> BlindNetwork:
    """The network of a run's config; `options` are axis_name, remat, dtype."""
    return of(config).network(config["scale"], **config["network"], **options)


def sizes(network: BlindNetwork) -> dict[str, int]:
    """What of a network's fields are sizes: a config's, but for switches."""
    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(network)}
    return {n: x for n, x in fields.items() if type(x) is int and n != "scale"}


def fresh_variables(config: Mapping[str, Any], key: Array) -> dict[str, Any]:
    """Variables {"params", "batch_stats"} of a run before its first step."""
    method, role, scale = of(config), config["role"], config["scale"]
    privileged = None
    if role == "teacher" and method.privileged == "hr":
        privileged = jnp.zeros((1, 8 * scale, 8 * scale, 3))
    elif role == "teacher":
        shown = config.get("prior", True)
        privileged = jnp.zeros((1, prior.channels(config["setting"]) if shown else 0))
    return blind.initialise(
        make_network(config), key, privileged, projects=role in method.projecting
    )


def _numbered(template: str, *counts: int) -> np.ndarray:
    """The names [*counts] that a template's places make: "a.{}" is a.0, a.1, ..."""
    names = [template.format(*index) for index in product(*map(range, counts))]
    return np.array(names).reshape(counts)


def _restorer(convolution: str) -> Names:
    """What all restorers have; `convolution` is their bodies' last."""
    names = {
        "restorer/head": "G.head.0",
        "restorer/body/conv": convolution,
        "restorer/upscale_0": "G.tail.0.0",
        "restorer/upscale_1": "G.tail.0.2",
        "restorer/tail": "G.tail.1",
    }
    return {ours: np.array(theirs) for ours, theirs in names.items()}


def _estimator(prefix: str) -> Names:
    """Six convolutions with BatchNorm, and the projector above them."""
    names = {f"estimator/conv_{i}": f"{prefix}E.{3 * i}" for i in range(6)}
    names |= {f"estimator/norm_{i}": f"{prefix}E.{3 * i + 1}" for i in range(6)}
    return {ours: np.array(theirs) for ours, theirs in names.items()} | _mlp(prefix)


def _mlp(prefix: str) -> Names:
    return {
        "projector/hidden": np.array(f"{prefix}mlp.0"),
        "projector/output": np.array(f"{prefix}mlp.2"),
    }


def _scale(shapes: Shapes) -> int:
    if "G.tail.0.2.weight" in shapes:
        return 4
    shape = (*shapes.get("G.tail.0.0.weight", ()), 0, 0)
    return 3 if shape[0] == 9 * shape[1] else 2


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern's group finds; 0 for none."""
    found = [re.match(pattern, name) for name in shapes]
    return max((1 + int(match[1]) for match in found if match), default=0)


# LightBSR

_GROUP, _BLOCK = "G.body.{}", "G.body.{}.body.{}"
_MIXING = {  # the layer scale has the module's own name
    "": "",
    "/depthwise": ".dwconv",
    "/norm": ".norm",
    "/expand": ".pwconv1",
    "/reduce": ".pwconv2",
}


def _lightbsr_layers(network: LightBSR, prefix: str) -> Names:
    groups, blocks = network.groups, network.blocks
    by_block = {
        "spatial/mask_hidden": ".spatial_mixing.spatial_attention.0",
        "spatial/mask": ".spatial_mixing.spatial_attention.2",
        "spatial/conv": ".spatial_mixing.partial_conv3",
        "channel/weight_hidden": ".spatial_mixing.loc.avgafter.0",
        "channel/weight": ".spatial_mixing.loc.avgafter.2",
        **{f"mixing{ours}": theirs for ours, theirs in _MIXING.items()},
    }
    by_group = {
        "channel_converter/expand": ".ca_change.avgafter.0",
        "channel_converter/reduce": ".ca_change.avgafter.2",
        "spatial_converter/expand": ".xk_change.sig1.0",
        "spatial_converter/reduce": ".xk_change.sig1.2",
        "conv": f".body.{blocks + 1}",
        **{
            f"convnext{ours}": f".body.{blocks}{theirs}"
            for ours, theirs in _MIXING.items()
        },
    }
    body = "restorer/body/groups"
    return {
        **_estimator(prefix),
        "converter/channel": np.array("G.compress.0"),
        "converter/spatial": np.array("G.afterpixshuffle.0"),
        **_restorer(f"G.body.{groups}"),
        **{
            f"{body}/{ours}": _numbered(_GROUP + theirs, groups)
            for ours, theirs in by_group.items()
        },
        **{
            f"{body}/blocks/{ours}": _numbered(_BLOCK + theirs, groups, blocks)
            for ours, theirs in by_block.items()
        },
    }


def _recognise_lightbsr(shapes: Shapes) -> tuple[LightBSR, str] | None:
    groups = _count(shapes, r"G\.body\.(\d+)\.body\.\d+\.spatial_mixing\.")
    blocks = _count(shapes, r"G\.body\.\d+\.body\.(\d+)\.spatial_mixing\.")
    if not groups or not any(name.startswith(LONE) for name in shapes):
        return None
    contrasts = any(name.startswith((PRINCIPAL, MOMENTUM)) for name in shapes)
    role = "teacher" if contrasts else "student"
    return LightBSR(_scale(shapes), groups, blocks), role


# KDSR


def _kdsr_layers(network: KDSR, prefix: str) -> Names:
    residual, body = network.residual_blocks, "restorer/body/blocks"
    names = {
        "estimator/conv_0": np.array(f"{prefix}E.0"),
        "converter/compress": np.array(f"{prefix}compress.0"),
    }
    for i in (1, 2, 3):
        names[f"estimator/conv_{i}"] = np.array(f"{prefix}E.{residual + 2 * i}")
    for i in (0, 1):
        numbers = [f"{prefix}E.{2 + r}.body.{2 * i}" for r in range(residual)]
        names[f"estimator/blocks/conv_{i}"] = np.array(numbers)
    for ours, theirs in {
        "dynamic/hidden": "da_conv1.kernel.0",
        "dynamic/kernel": "da_conv1.kernel.2",
        "conv": "conv1",
    }.items():
        template = f"G.body.0.body.{{}}.{theirs}"
        names[f"{body}/{ours}"] = _numbered(template, network.blocks)
    return names | _mlp(prefix) | _restorer("G.body.1")


def _recognise_kdsr(shapes: Shapes) -> tuple[KDSR, str] | None:
    blocks = _count(shapes, r"G\.body\.0\.body\.(\d+)\.da_conv1\.kernel\.")
    residual = _count(shapes, r"E(?:_st)?\.E\.(\d+)\.body\.") - 2
    if not blocks or residual < 1:
        return None
    features = (*shapes.get("G.head.0.weight", ()), 64)[0]
    role = "student" if any(name.startswith("E_st.") for name in shapes) else "teacher"
    return KDSR(_scale(shapes), features, blocks, residual), role


# DASR


def _dasr_layers(network: DASR, prefix: str) -> Names:
    groups, blocks = network.groups, network.blocks
    body = "restorer/body/groups"
    names = {
        **_estimator(prefix),
        "converter/compress": np.array("G.compress.0"),
        f"{body}/conv": _numbered(f"G.body.{{}}.body.{blocks}", groups),
        **_restorer(f"G.body.{groups}"),
    }
    by_block = {"conv_0": ".conv1", "conv_1": ".conv2"}
    for i in (0, 1):
        aware = f".da_conv{i + 1}"
        by_block |= {
            f"aware_{i}/dynamic/hidden": f"{aware}.kernel.0",
            f"aware_{i}/dynamic/kernel": f"{aware}.kernel.2",
            f"aware_{i}/conv": f"{aware}.conv",
            f"aware_{i}/gate_hidden": f"{aware}.ca.conv_du.0",
            f"aware_{i}/gate": f"{aware}.ca.conv_du.2",
        }
    for ours, theirs in by_block.items():
        names[f"{body}/blocks/{ours}"] = _numbered(_BLOCK + theirs, groups, blocks)
    return names


def _recognise_dasr(shapes: Shapes) -> tuple[DASR, str] | None:
    groups = _count(shapes, r"G\.body\.(\d+)\.body\.\d+\.da_conv2\.")
    blocks = _count(shapes, r"G\.body\.\d+\.body\.(\d+)\.da_conv2\.")
    return (DASR(_scale(shapes), groups, blocks), "network") if groups else None


METHODS = {
    "lightbsr": Method(
        title="LightBSR",
        network=LightBSR,
        roles={"teacher": PRINCIPAL, "student": LONE},
        privileged="prior",
        projecting=("teacher",),
        inherited=("estimator", "converter", "restorer"),
        distilled=("estimator", "converter"),
        contrasts="all",
        pixel_range=255,
        reference="github.com/MJ-NCEPU/LightBSR",
        checkout=(
            "model/student.py",
            "model/teacher.py",
            "moco/builder.py",
            "loss/distillation_loss.py",
            *_UTILITIES,
        ),
        published={"groups": 8, "blocks": 8},
        layers=_lightbsr_layers,
        recognise=_recognise_lightbsr,
    ),
    "kdsr": Method(
        title="KDSR",
        network=KDSR,
        roles={"teacher": LONE, "student": "E_st."},
        privileged="hr",
        projecting=("teacher", "student"),
        # The published program drops the teacher's estimator, whose tensors have
        # other names in a student.
        inherited=("restorer",),
        distilled=("estimator", "projector"),
        contrasts=None,
        pixel_range=1,
        reference="github.com/Zj-BinXia/KDSR (its folder KDSR-classic)",
        checkout=("model_TA/blindsr.py", "model_ST/blindsr.py", *_UTILITIES),
        published={},  # they are options there
        layers=_kdsr_layers,
        recognise=_recognise_kdsr,
    ),
    "dasr": Method(
        title="DASR",
        network=DASR,
        roles={"network": PRINCIPAL},
        privileged=None,
        projecting=("network",),
        inherited=(),
        distilled=(),
        contrasts="pair",
        pixel_range=255,
        reference="github.com/The-Learning-And-Vision-Atelier-LAVA/DASR",
        checkout=("model/blindsr.py", "moco/builder.py", *_UTILITIES),
        published={"groups": 5, "blocks": 5},
        layers=_dasr_layers,
        recognise=_recognise_dasr,
    ),
}
