"""Upscaling pictures of any size with a trained network, exactly, in bounded memory."""
