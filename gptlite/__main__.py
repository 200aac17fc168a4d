"""`python -m gptlite`: the one file of the library that looks up to the command line."""

import os
import sys

# Python looks for modules in the current folder first, where a model that was downloaded may have brought its own
# `torch.py`. These two modules were there before.
if sys.path[:1] in ([""], [os.getcwd()]):
    del sys.path[0]

if __name__ == "__main__":
    import _signal  # pyright: ignore[reportMissingImports]

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # no traceback until `start` has a sentence for Ctrl-C

from gptlite.cli.process import start

if __name__ == "__main__":
    start()
