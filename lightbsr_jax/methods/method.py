"""The description of a method: what training, weights and inference ask about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.onnx_graph import Graph
from lightbsr_jax.methods.parts import InParts
from lightbsr_jax.methods.recipe import Recipe
from lightbsr_jax.methods.torch_layers import Names, Shapes

UTILITIES = ("utils/util.py", "utility.py")  # that all the published programs have


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
    loss_range: float  # L_SR is measured on images in 0..this
    reference: str  # where the published program is
    checkout: tuple[str, ...]  # files that are used of it, and by which it is known
    published: Mapping[str, int]  # the network's sizes that are fixed in its code
    recipe: Recipe  # how it is trained
    layers: Callable[[Any, str], Names] = field(repr=False)  # network, prefix
    recognise: Callable[[Shapes], tuple[BlindNetwork, str] | None] = field(repr=False)
    in_parts: InParts = field(repr=False)
    # Writes a student's (graph, network, variables), for `interop.export`.
    to_onnx: Callable[[Graph, Any, dict[str, Any]], None] = field(repr=False)
