"""The store and its artifacts, on a disk or in S3: files, manifests, uploads and the local cache.

All rooms may import it; it imports only `cluster.errors`.
Add backends in `filesystem.py` and manifest fields in `artifact.py`.
"""
