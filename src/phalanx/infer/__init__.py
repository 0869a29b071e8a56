"""Using a trained model: text continued, masks filled. Knows checkpoints, never the trainer."""
