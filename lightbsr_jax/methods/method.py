"""The description of a method for training, weights and inference."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.onnx_graph import Graph
from lightbsr_jax.methods.parts import InParts
from lightbsr_jax.methods.recipe import Recipe
from lightbsr_jax.methods.torch_layers import Names, Shapes

UTILITIES = ("utils/util.py", "utility.py")  # files of all published programs


@dataclass(frozen=True)
class Method:
    """The differences between methods, apart from their losses.

    A role is "teacher" or "student", or "network" for methods without these two.
    """

    title: str
    network: type[BlindNetwork]
    roles: Mapping[str, str]  # to the prefix of the estimator's names in torch
    # The input of a teacher's estimator in addition to the LR image.
    privileged: Literal["prior", "hr"] | None
    projecting: tuple[str, ...]  # roles with a projector
    inherited: tuple[str, ...]  # modules that a student copies from its teacher
    distilled: tuple[str, ...]  # modules that a student trains in stage 1
    # Contrast of all crops of an image with one another, or of the first two.
    contrasts: Literal["all", "pair"] | None
    loss_range: float  # L_SR is measured on images in 0..loss_range
    reference: str  # address of the published program
    checkout: tuple[str, ...]  # its files that are used, and that identify it
    published: Mapping[str, int]  # sizes of the network that its code fixes
    recipe: Recipe  # training parameters
    layers: Callable[[Any, str], Names] = field(repr=False)  # network, prefix
    recognise: Callable[[Shapes], tuple[BlindNetwork, str] | None] = field(repr=False)
    in_parts: InParts = field(repr=False)
    # Writes a student's (graph, network, variables), for `interop.export`.
    to_onnx: Callable[[Graph, Any, dict[str, Any]], None] = field(repr=False)
    # Write the stages of `in_parts` by the names of their functions, for
    # `interop.parts`: (graph, network, variables, *values) to the name of the result.
    onnx_parts: Mapping[str, Callable[..., str]] | None = field(
        default=None, repr=False
    )
