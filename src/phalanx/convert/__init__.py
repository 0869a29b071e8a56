"""Models from and to other programs' formats, a tensor at a time; nothing is unpickled."""
