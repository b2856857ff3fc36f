"""Probes of a model: what it knows and does not know, and whether it treats names alike.

`stages` may import it.
"""
