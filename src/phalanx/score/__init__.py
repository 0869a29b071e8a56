"""Scores of answers by the definitions that the field publishes; numpy and the standard library only."""
