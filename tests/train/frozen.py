"""Imported last by the process that others are forked from: what is there by now is no garbage, and the collector need
not look at it again, nor write to its pages, in each of them.
"""

import gc

gc.freeze()
