"""Other programs' formats, there and back."""
