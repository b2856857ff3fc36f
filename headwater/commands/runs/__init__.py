"""Commands that plan, start, watch and inspect runs, on this machine or a cluster."""
