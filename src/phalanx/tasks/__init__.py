"""The tasks that a model is trained on or judged by, one file each."""
