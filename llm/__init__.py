"""Model, training, alignment, inference engine and evaluation."""
