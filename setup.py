"""The build; everything that can be said in pyproject.toml is said there."""

from setuptools import setup

setup()
