"""The front door: the command line, the recipe and the order of the stages."""
