"""For tools that look for this file; pyproject.toml holds everything."""

from setuptools import setup

setup()
