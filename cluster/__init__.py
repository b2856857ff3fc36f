"""What every stage stands on: storage, the Ray runtime, cluster jobs and health checks.

Every other package may import it; it imports none of them.
A storage backend goes to `storage/`, a kind of worker pool to `runtime/`, a check to `doctor/`.
"""
