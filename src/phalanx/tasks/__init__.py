"""What is learned: one task, one file."""
