"""Operations on images and image files, without learned parameters.

Images are [B, ..., H, W, C] float32, RGB. High-resolution images are on the 0..255
scale, low-resolution ones (the network's input) in [0, 1].
"""
