"""Comparing the published PyTorch programs with this one, quantity by quantity."""
