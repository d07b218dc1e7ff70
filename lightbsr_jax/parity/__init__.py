"""The published PyTorch programs beside this one, quantity by quantity."""
