"""The network of the paper. Feature maps are NHWC float32; see `lightbsr` first."""
