"""The version of the package: what pyproject.toml reads, and what every artifact carries."""

__version__ = "0.1.0"
