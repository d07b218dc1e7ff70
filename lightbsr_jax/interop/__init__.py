"""Exchange with the PyTorch reference."""
