"""How the work is laid out over processes."""
