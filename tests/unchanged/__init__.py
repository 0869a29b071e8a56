"""Whether the program still computes what it did.

`python -m tests.unchanged` does the same work with an older commit and with the tree at hand (jobs.py, sides.py) and
tells what differs (differences.py). What no processor changes is also held as files that a quick test reads (exact.py).
"""
