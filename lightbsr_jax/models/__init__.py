"""Trained networks: in memory, as checkpoints, as packed files, as state dicts."""
