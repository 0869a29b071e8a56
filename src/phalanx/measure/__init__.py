"""Measurements of this machine: its scaling, and a cluster file of it for the plan."""
