"""One save, its link and one deletion, between two marks that strace shows: python one_save.py RUN."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from gptlite.errors import StorageError
from gptlite.storage import durable

FILES = {"config.json": b"{}", "model.safetensors": bytes(50_000), "training_state/state.json": b"1" * 3_000}


def main(run: Path) -> int:
    signal.signal(signal.SIGINT, lambda *_: None)  # as in training, where it is a wish that waits
    older, newer = run / "step-000000001", run / "step-000000002"
    durable.make_directory(run)
    durable.write_directory(older, FILES, {"step": 1})
    os.access("/begin", os.F_OK)
    try:
        durable.write_directory(newer, FILES, {"step": 2})
        durable.replace_link(run.parent / "announced", "2")
        durable.replace_link(run / "latest", newer.name)
        durable.remove_directory(older)
    except (StorageError, OSError) as error:
        print(error)
    os.access("/end", os.F_OK)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
