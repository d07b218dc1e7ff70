"""DASR (CVPR 2021)."""
