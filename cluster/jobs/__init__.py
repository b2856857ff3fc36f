"""Runs as Ray jobs: package the source, submit, follow the log, restart the driver.

The commands import it.
Add job operations in `jobs.py`; `package.py` builds the working directory that is sent to the cluster.
"""
