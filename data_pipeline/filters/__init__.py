"""Filters: each judges one text and gives None (keep) or a Rejection with its reason, score and threshold."""
