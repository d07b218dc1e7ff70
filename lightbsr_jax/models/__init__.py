"""Trained networks: in memory, as checkpoints, as single files, in PyTorch form."""
