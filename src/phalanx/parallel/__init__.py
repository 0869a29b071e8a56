"""The layout of the work over processes."""
