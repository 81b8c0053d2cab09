"""Engines: run groups of trials in the processes of this machine, on a Ray cluster, or in the coordinator's process."""
