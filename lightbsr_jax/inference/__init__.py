"""Using a trained network on pictures of any size: exact, in bounded memory."""
