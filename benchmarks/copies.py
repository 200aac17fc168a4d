"""The copy check beside tokenizing the same text: seconds and memory, each in a fresh process.

    python benchmarks/copies.py corpus.txt --megabytes 1 10

The text is made of lines of the given files, drawn at random until there are enough. The sample that is checked is made
of other lines, and so are the 16 pieces of held-out text beside it. A suffix array of the training text (libdivsufsort
by way of `pydivsufsort`) is made for comparison where that package is installed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = 2000  # characters, about what 600 tokens are


def make_texts(files: list[str], megabytes: float, folder: Path) -> None:
    """train.txt with so many megabytes, and held-out.txt with lines that are not in it."""
    lines = [line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines(True) if line.strip()]
    rng = random.Random(0)
    rng.shuffle(lines)
    held_out, lines = lines[: len(lines) // 20], lines[len(lines) // 20 :]
    (folder / "held-out.txt").write_text("".join(held_out), encoding="utf-8")
    size = 0
    with open(folder / "train.txt", "w", encoding="utf-8") as file:
        while size < megabytes * 1e6:
            line = rng.choice(lines)
            file.write(line)
            size += len(line.encode())


def memory(field: str) -> int:
    """Bytes that /proc says of this process: VmRSS now, VmHWM at most."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(what: str, folder: Path) -> dict[str, float]:
    """Seconds of one contender, and its peak of memory above what was there before."""
    from gptlite.evaluation import memorisation
    from gptlite.text import corpus, token_files
    from gptlite.text.tokenizer import Tokenizer

    text = corpus.open_text([str(folder / "train.txt")])
    held_out = corpus.open_text([str(folder / "held-out.txt")])
    tokenizer = Tokenizer.train(text.sample(1 << 20), 2048)
    sample = "".join(block for _, block in held_out.blocks())[:SAMPLE]
    content = (folder / "train.txt").read_bytes() if what == "suffix array" else b""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before, began = memory("VmRSS"), time.perf_counter()
    if what == "tokenize":
        token_files.tokenize(text, tokenizer, cache=folder / "cache")
    elif what == "check copies":
        memorisation.check([sample], text, held_out)
    else:
        from pydivsufsort import divsufsort

        divsufsort(content)
    return {"seconds": time.perf_counter() - began, "bytes": memory("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--contenders", nargs="+", default=["tokenize", "check copies", "suffix array"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, Path(arguments.files[0]))))
        return
    print("| text | " + " | ".join(arguments.contenders) + " |")
    print("|---|" + "---|" * len(arguments.contenders))
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            make_texts(arguments.files, megabytes, Path(folder))
            cells = []
            for contender in arguments.contenders:
                command = [sys.executable, __file__, folder, "--one", contender]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    cells.append(done.stderr.strip().splitlines()[-1])
                    continue
                found = json.loads(done.stdout)
                cells.append(f"{found['seconds']:.2f} s, {found['bytes'] / 1e6:,.0f} MB")
        print(f"| {megabytes:g} MB | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
