"""Pure torch modules: they know axes, slots and global coordinates, and nothing of processes."""
