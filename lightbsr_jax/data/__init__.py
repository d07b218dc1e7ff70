"""From image files to batches of uint8 high-resolution crops, on the host."""
