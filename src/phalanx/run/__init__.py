"""A run on disk: its folder, its configuration, its checkpoints. Nothing here knows of training."""
