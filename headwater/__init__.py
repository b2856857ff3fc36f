"""The front door: the command line, the recipe and the order of the stages."""

__version__ = "0.1.0"
