"""Lets nodes add up numbers two by two: what fails by a node, and what by the path between two."""

#: The name of this job, next to those of `fleet/jobs.py`.
ALLREDUCE = "allreduce"
