"""Peak memory of reading a text as `gptlite train` does, until it learns the vocabulary: reading.py FILE

Unpacked and checked, held out 5 %, and the held-out part compared with the rest.
"""

from __future__ import annotations

import resource
import sys
import time

import gptlite.training.pipeline  # so that only reading is measured  # noqa: F401
from gptlite.text.corpus import open_text
from gptlite.training.dataset import hold_out, note_copies
from gptlite.training.watcher import Watcher


def peak() -> int:
    """MiB, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


idle, began = peak(), time.process_time()
text = open_text([sys.argv[1]], notice=print)
read = peak()
note_copies(hold_out(text, "5%", Watcher()), Watcher())
seconds = time.process_time() - began
print(f"{text.n_bytes:,} bytes: idle {idle} MiB, read {read}, held out and compared {peak()}; {seconds:.0f} s")
