"""The scorers against what others compute."""
