"""`python -m gptlite`: the one file of the library that looks up to the command line."""

import os
import sys

# Python looks for modules in the current folder first, where a model that was downloaded may have brought its own
# `torch.py`. These two modules were there before.
if sys.path[:1] in ([""], [os.getcwd()]):
    del sys.path[0]

from gptlite.cli.process import start

if __name__ == "__main__":
    start()
