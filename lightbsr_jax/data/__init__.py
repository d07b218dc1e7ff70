"""Reading image files into batches of uint8 high-resolution crops, on the host."""
