"""What a model is, written down once: a torch-free description from which everything else about a model follows."""
