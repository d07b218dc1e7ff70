"""State dicts of networks much smaller than those of the PyTorch reference.

They are made from a literal list of the reference's names and shapes.
"""

from pathlib import Path

import numpy as np
import safetensors.numpy

Tensors = dict[str, np.ndarray]


QUEUE_SIZE = 24


def reference_shapes(
    groups: int, blocks: int, scale: int, channels: int | None
) -> dict[str, tuple[int, ...]]:
    """Shapes of the reference's state dict; `channels` of the prior, None: student."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *weight: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    def convnext(name: str) -> None:
        layer(f"{name}.dwconv", 64, 1, 7, 7)
        layer(f"{name}.norm", 64)
        layer(f"{name}.pwconv1", 128, 64)
        layer(f"{name}.pwconv2", 64, 128)
        shapes[f"{name}.gamma"] = (64,)

    layer("G.sub_mean", 3, 3, 1, 1)
    layer("G.add_mean", 3, 3, 1, 1)
    layer("G.head.0", 64, 3, 3, 3)
    layer("G.compress.0", 48, 128, bias=False)
    layer("G.afterpixshuffle.0", 8, 8, 3, 3)
    for g in range(groups):
        group = f"G.body.{g}"
        layer(f"{group}.ca_change.avgafter.0", 96, 48)
        layer(f"{group}.ca_change.avgafter.2", 48, 96)
        layer(f"{group}.xk_change.sig1.0", 16, 8, 3, 3)
        layer(f"{group}.xk_change.sig1.2", 8, 16, 3, 3)
        for b in range(blocks):
            mixing = f"{group}.body.{b}.spatial_mixing"
            layer(f"{mixing}.partial_conv3", 16, 16, 5, 5, bias=False)
            layer(f"{mixing}.loc.avgafter.0", 24, 96, bias=False)
            layer(f"{mixing}.loc.avgafter.2", 48, 24, bias=False)
            layer(f"{mixing}.spatial_attention.0", 16, 24, 1, 1, bias=False)
            layer(f"{mixing}.spatial_attention.2", 16, 16, 3, 3, bias=False)
        for b in range(blocks + 1):
            convnext(f"{group}.body.{b}")
        layer(f"{group}.body.{blocks + 1}", 64, 64, 3, 3)
    layer(f"G.body.{groups}", 64, 64, 3, 3)
    layer("G.tail.0.0", {2: 256, 3: 576, 4: 256}[scale], 64, 3, 3)
    if scale == 4:
        layer("G.tail.0.2", 256, 64, 3, 3)
    layer("G.tail.1", 3, 64, 3, 3)

    estimators = ["E."] if channels is None else ["E.encoder_q.", "E.encoder_k."]
    for estimator in estimators:
        inputs = [3 + (channels or 0), 32, 32, 64, 64, 128]
        outputs = [32, 32, 64, 64, 128, 128]
        for i, (before, after) in enumerate(zip(inputs, outputs, strict=True)):
            norm = f"{estimator}E.{3 * i + 1}"
            layer(f"{estimator}E.{3 * i}", after, before, 3, 3)
            layer(norm, after)
            shapes[f"{norm}.running_mean"] = shapes[f"{norm}.running_var"] = (after,)
            shapes[f"{norm}.num_batches_tracked"] = ()
        if channels is not None:
            layer(f"{estimator}mlp.0", 128, 128)
            layer(f"{estimator}mlp.2", 128, 128)
    if channels is not None:
        shapes["E.queue"] = (128, QUEUE_SIZE)
        shapes["E.queue_ptr"] = (1,)
    return shapes


def reference_tensors(
    groups: int = 1, blocks: int = 1, scale: int = 4, channels: int | None = None
) -> Tensors:
    """Random tensors; every counter has a different value.

    The network restores pictures neither to one colour nor to what is not a number.
    """
    rng = np.random.default_rng(1)
    tensors: Tensors = {}
    for name, shape in reference_shapes(groups, blocks, scale, channels).items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.array(2**40 + len(tensors))
        else:
            numbers = rng.standard_normal(shape, np.float32)
            numbers /= np.float32(np.sqrt(np.prod(shape[1:])))
            is_variance = name.endswith("running_var")
            tensors[name] = np.abs(numbers) if is_variance else numbers
    mean = np.array([0.4488, 0.4371, 0.4040], np.float32)
    for sign, shift in ((-1, "sub_mean"), (1, "add_mean")):
        identity = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
        tensors |= {f"G.{shift}.weight": identity, f"G.{shift}.bias": sign * mean}
    if channels is not None:
        tensors["E.queue_ptr"] = np.array([16])
    return tensors


def save(path: Path, tensors: Tensors) -> Path:
    safetensors.numpy.save_file(tensors, path)
    return path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
