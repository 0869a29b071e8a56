"""In what numbers the matrix products run."""
