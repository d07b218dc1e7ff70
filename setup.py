"""Installs configs/ inside the package, which pyproject.toml cannot express."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lightbsr_jax*"]), "lightbsr_jax.configs"],
    package_dir={"lightbsr_jax.configs": "configs"},
)
