"""Commands that measure, align, promote, export and serve models."""
