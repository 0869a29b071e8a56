"""What a run leaves on disk: its folder, its configuration, its checkpoints. Knows nothing of training."""
