"""Model families: one family, one file."""
