"""Scaling and calibration, on this machine."""
