"""Runs as jobs of a Ray cluster: packing the source, submitting, following, restarting the driver.

The commands import it.
Add a job operation in `jobs.py`; what is sent to the cluster is in `package.py`.
"""
