"""Says what is wrong with an NVIDIA GPU machine, how we know, and how to fix it."""

__version__ = "0.1.0"
