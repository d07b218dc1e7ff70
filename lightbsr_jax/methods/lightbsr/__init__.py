"""LightBSR (ICCV 2025)."""
