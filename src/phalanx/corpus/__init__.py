"""From raw text to what is worth training on: datatrove does the work, here are its steps and their order."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # datatrove's bars: there is one over all
