"""KDSR (ICLR 2023)."""
