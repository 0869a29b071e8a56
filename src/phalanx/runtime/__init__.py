"""Processes of a run: they start, find each other, notice a lost or a hanging one, and end together."""
