"""Exchanging weights with the PyTorch reference, and exporting networks."""
