"""Layers and operators of the networks. Feature maps are NHWC."""
