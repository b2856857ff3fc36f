"""Shared infrastructure of all stages: storage, the Ray runtime, cluster jobs and health checks.

Every other package may import it; it imports none of them.
Add storage backends in `storage/`, worker pools in `runtime/`, checks in `doctor/`.
"""
