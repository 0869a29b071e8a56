"""The number formats that matrix products run in."""
