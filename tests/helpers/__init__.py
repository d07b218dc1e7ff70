"""Helpers of several test modules, which do not import one another."""
