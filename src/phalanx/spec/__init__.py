"""The description of a model, written down once and without torch: all else about a model follows from it."""
