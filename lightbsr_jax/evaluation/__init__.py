"""Benchmarks: measure a restorer by the paper's protocol and report the result."""
