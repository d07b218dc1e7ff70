"""The U-Net discriminator of Real-ESRGAN and KDSR, with PyTorch's operators."""

from typing import Any


def torch_logits(torch: Any, layers: Any, x: Any) -> Any:
    """The logits of images [B, 3, H, W], by convolutions with these names."""
    functional = torch.nn.functional

    def active(name: str, x: Any) -> Any:
        return functional.leaky_relu(layers[name](x), 0.2)

    def larger(x: Any) -> Any:
        return functional.interpolate(x, scale_factor=2, mode="bilinear")

    maps = [active("conv0", x)]
    for name in ("conv1", "conv2", "conv3"):
        maps.append(active(name, maps[-1]))
    x = maps[3]
    for name, beside in (("conv4", 2), ("conv5", 1), ("conv6", 0)):
        x = active(name, larger(x)) + maps[beside]
    return layers["conv9"](active("conv8", active("conv7", x)))
