"""Phalanx: pretrain, evaluate and serve BERT and GPT on anything from a laptop to a cluster.

Importing the package imports nothing heavy; every verb of the command line imports what it needs when it runs.
"""

__version__ = "0.1.0"
