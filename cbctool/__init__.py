"""Differential counts from whole blood-smear images. For research use and preliminary counts.

The vocabulary is in :mod:`cbctool.records`; ``ARCHITECTURE.md`` shows how the data goes.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("cbctool")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
