"""Runs handed to a cluster's queue."""
