"""The store and its artifacts on a disk or in S3: files, folders, manifests, uploads, the local cache.

All rooms may import it; it imports `cluster.errors` alone.
Add a backend in `filesystem.py`; add what a manifest records in `artifact.py`.
"""
