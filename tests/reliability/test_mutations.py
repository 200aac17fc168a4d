"""Thousands of mutated checkpoints: each loads or is refused in a sentence, soon, and in little memory.

The mutants know what they damage: JSON values, keys and nesting, headers, offsets, numbers. A third of them has a stale
manifest, a third one that an attacker made fit, a third none at all. They are read in processes that were forked from
one that has all libraries loaded, so that a crash, a hang or a gigabyte is seen from outside.

    python tests/reliability/test_mutations.py 10000 1    # how many, and from which seed
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
import torch
from conftest import make_text
from support.forging import (
    FILES,
    MODEL_FILES,
    join_safetensors,
    read_everything,
    save_whole_step,
    seal,
    split_safetensors,
    with_digest,
)

from gptlite.checkpoint import saved_step
from gptlite.errors import CheckpointError, LimitError
from gptlite.storage.durable import MANIFEST, json_bytes
from gptlite.text.tokenizer import Tokenizer

BATCH = 50  # mutants of one process
SECONDS, MEMORY = 2.0, 256 << 20  # that a mutant may take
RAW = {"<nan>": "NaN", "<inf>": "-Infinity", "<huge>": "1e999", "<digits>": "9" * 5000, "<half>": '"\\ud800"'}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, 2**63, 10**12, 10**30, 0.5, -0.0, 1e-300, 1e308),
    *("", "x", "x" * 5000, "../../etc/passwd", "/dev/zero", "http://localhost", "\x1b[2J", "F32", "BOOL", "BPE", "天"),
    *([], {}, [[]], [0], [0, 0], {"a": 1}, [1] * 1000, *RAW),
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def change_json(rng: random.Random, text: str) -> str:
    """One edit of a random value somewhere in a JSON text, and now and then of the text itself."""
    root = {"": json.loads(text)}
    place, key = root, ""
    while isinstance(place[key], (dict, list)) and place[key] and (place is root or rng.random() < 0.7):
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    kind = rng.randrange(7)
    if kind == 0 and place is not root:
        del place[key]
    elif kind == 1 and isinstance(place, dict) and place is not root:
        place[rng.choice(["x", key + "x", "", "sha256", "__metadata__"])] = place.pop(key)
    elif kind == 2 and isinstance(place[key], (int, float)) and not isinstance(place[key], bool):
        place[key] += rng.choice([1, -1, 8, -8, 2**32, 0.5])
    elif kind == 3 and isinstance(place, dict):
        place[key + "2"] = place[key]
    elif kind == 4:
        place[key] = nested(rng.choice([5, 100, 900]))
    else:
        place[key] = rng.choice(VALUES)
    changed = json.dumps(root[""])
    for name, spelling in RAW.items():
        changed = changed.replace(f'"{name}"', spelling)
    if rng.random() < 0.1:  # a name twice
        changed = changed.replace("{", '{"format": 1, "dtype": "F32", ', 1) if rng.random() < 0.5 else changed + changed
    return changed


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """One edit that knows nothing of what it edits."""
    at, length = rng.randrange(len(content) + 1), rng.choice([1, 2, 8, 64, 1000])
    piece = content[at : at + length]
    return rng.choice(
        [
            content[:at],
            content[:at] + content[at + length :],
            content[:at] + piece + content[at:],
            content[:at] + rng.randbytes(len(piece)) + content[at + length :],
            content[:at] + bytes(len(piece)) + content[at + length :],
            content[:at] + b"\xff" * len(piece) + content[at + length :],
            content[:at] + rng.randbytes(length) + content[at:],
            content + rng.choice([b"\0", b"{}", b"PK\x05\x06" + bytes(18), rng.randbytes(length)]),
            b"",
        ]
    )


def flip_bit(rng: random.Random, content: bytes) -> bytes:
    flipped = bytearray(content)
    flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def change_safetensors(rng: random.Random, content: bytes) -> bytes:
    """One edit of the header, its length, or the numbers."""
    header, data = split_safetensors(content)
    kind = rng.randrange(4)
    if kind == 0:
        length = rng.choice([0, 1, 2, 7, len(content) - 8, len(content), 10**8 + 1, 2**63, 2**64 - 1])
        return length.to_bytes(8, "little") + content[8:]
    if kind == 1:  # another value, be it none, in place of a number
        at = 4 * rng.randrange(max(1, len(data) // 4))
        number = torch.tensor(rng.choice([float("nan"), float("inf"), -1.0, 0.5, 1e38, -1e38, 1e-40]))
        data = data[:at] + number.numpy().tobytes() + data[at + 4 :]
        return join_safetensors(header, data[: len(content)])
    return join_safetensors(change_json(rng, json.dumps(header)), data)


@dataclass(frozen=True)
class Mutant:
    """What of which file was changed, and which manifest goes with it: stale, fitting or none."""

    name: str
    kind: str
    manifest: str
    content: bytes


def mutate(rng: random.Random, files: dict[str, bytes]) -> Mutant:
    """One mutant of a step with these files."""
    name = rng.choice([*FILES, MANIFEST])
    kinds: dict[str, Callable[[random.Random, bytes], bytes]] = {"bit": flip_bit, "bytes": change_bytes}
    if name.endswith(".json"):
        kinds["json"] = kinds["json again"] = lambda rng, content: change_json(rng, content.decode()).encode()
    else:
        kinds["header"] = kinds["numbers"] = change_safetensors
    kinds["swapped"] = lambda rng, content: files[rng.choice(FILES)]
    kind = rng.choice(list(kinds))
    manifests = ["stale", "fitting", "none"] if name in MODEL_FILES else ["stale", "fitting"]
    return Mutant(name, kind, rng.choice(manifests), kinds[kind](rng, files[name]))


def write(mutant: Mutant, template: Path, step: Path) -> Path:
    """The mutated step on disk: at `step`, or beside it where it is no step but a directory of someone else."""
    hub = step.with_name("hub")
    for folder in (step, hub):
        shutil.rmtree(folder, ignore_errors=True)
    place = Path(shutil.copytree(template, hub if mutant.manifest == "none" else step))
    (place / mutant.name).write_bytes(mutant.content)
    if mutant.manifest == "none":
        (place / MANIFEST).unlink()
    elif mutant.manifest == "fitting" and mutant.name != MANIFEST:
        seal(place)
    elif mutant.manifest == "fitting":
        try:
            manifest = json.loads(mutant.content)
            (place / MANIFEST).write_bytes(json_bytes(with_digest(manifest)))
        except (ValueError, AttributeError, RecursionError):
            pass  # nothing that could be given a digest
    return place


def is_older(mutant: Mutant) -> bool:
    """Did the manifest lose its own digest, as those of the first steps have none?"""
    return mutant.name == MANIFEST and mutant.kind.startswith("json") and "sha256" not in json.loads(mutant.content)


def use(place: Path, whole: bool) -> None:
    """Read it all, then speak and listen."""
    loaded = read_everything(place) if whole else saved_step.load(place)
    ids = loaded.tokenizer.encode("Ada finds the river, 12 times.\n天地")
    loaded.tokenizer.decode(ids)
    with torch.no_grad():
        loaded.model(torch.tensor([ids[: loaded.config.context_length]]))


def judge(mutant: Mutant, original: bytes, template: Path, step: Path) -> dict[str, Any]:
    """What came of one mutant; `wrong` where it should not have."""
    place = write(mutant, template, step)
    began = time.process_time()
    wrong = None
    try:
        use(place, mutant.manifest != "none")
        outcome = "loaded"
        if mutant.manifest == "stale" and mutant.content != original and not is_older(mutant):
            wrong = "damage was not noticed"
    except (CheckpointError, LimitError) as error:
        outcome, message = type(error).__name__, str(error)
        if len(message.encode()) > 2048 or "\n" in message:
            wrong = f"a message of {len(message):,} characters"
    except BaseException as error:
        outcome = wrong = repr(error)[:500]
    seconds = time.process_time() - began
    if seconds > SECONDS:
        wrong = f"{seconds:.1f} seconds"
    return {
        "outcome": outcome,
        "seconds": seconds,
        "wrong": wrong and f"{wrong}: {mutant.name}, {mutant.kind}, {mutant.manifest}",
    }


def fork(work: Callable[[], list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], int, int]:
    """What `work` returns in a process of its own, how that ended, and its peak memory in bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(120)
        with os.fdopen(writing, "w") as pipe:
            json.dump(work(), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(child, 0)
    return json.loads(text or "[]"), os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024


def survey(n: int, seed: int) -> dict[str, Any]:
    """Judge `n` mutants in batches, each in a forked process."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train([make_text()], 320)
    found: list[dict[str, Any]] = []
    wrong: list[str] = []
    peak = 0
    with tempfile.TemporaryDirectory() as name:
        templates = []
        for architecture in ("qwen3", "gpt2", "llama", "transformer-2017"):
            (Path(name) / architecture).mkdir()
            templates.append(save_whole_step(Path(name) / architecture, tokenizer, architecture))
        step = Path(name) / "mutants" / templates[0].name
        step.parent.mkdir()

        def whole() -> list[dict[str, Any]]:
            for template in templates:
                use(template, True)
            return []

        _, _, baseline = fork(whole)
        for first in range(0, n, BATCH):

            def batch(first: int = first) -> list[dict[str, Any]]:
                judged = []
                for number in range(first, min(n, first + BATCH)):
                    rng = random.Random(f"{seed} {number}")
                    template = rng.choice(templates)
                    files = {name: (template / name).read_bytes() for name in (*FILES, MANIFEST)}
                    mutant = mutate(rng, files)
                    verdict = judge(mutant, files[mutant.name], template, step)
                    judged.append({**verdict, "number": number})
                return judged

            judged, code, memory = fork(batch)
            found += judged
            peak = max(peak, memory - baseline)
            if code != 0:
                wrong.append(f"mutants {first} to {first + BATCH}: the process ended with {code}")
            if memory - baseline > MEMORY:
                wrong.append(f"mutants {first} to {first + BATCH}: {(memory - baseline) >> 20} MiB")
    wrong += [f"mutant {verdict['number']}: {verdict['wrong']}" for verdict in found if verdict["wrong"]]
    return {
        "mutants": len(found),
        "outcomes": Counter(verdict["outcome"] for verdict in found),
        "slowest": round(max(verdict["seconds"] for verdict in found), 3),
        "peak_mib": max(0, peak) >> 20,
        "wrong": wrong,
    }


@pytest.mark.row("K42")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("n", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_every_mutant_loads_or_is_refused(n: int) -> None:
    ended = subprocess.run([sys.executable, __file__, str(n), "1"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    print(result)
    assert result["wrong"] == []
    assert result["mutants"] == n
    assert result["outcomes"]["CheckpointError"] > n / 2
    assert result["outcomes"]["loaded"] > 0
    assert "panicked" not in ended.stderr


@pytest.mark.row("K42")
def test_the_judge_notices_what_must_not_be(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else thousands of verdicts would say nothing."""
    template = save_whole_step(tmp_path, tokenizer)
    original = (template / "config.json").read_bytes()
    harmless = Mutant("config.json", "none", "stale", original)
    place = tmp_path / "mutants" / template.name
    place.parent.mkdir()
    assert judge(harmless, original, template, place)["wrong"] is None
    assert "not noticed" in judge(harmless, b"", template, place)["wrong"]
    for fault in (ZeroDivisionError("x"), MemoryError(), CheckpointError("x" * 3000), CheckpointError("two\nlines")):

        def broken(place: Path, whole: bool, fault: BaseException = fault) -> None:
            raise fault

        monkeypatch.setattr(sys.modules[__name__], "use", broken)
        assert judge(harmless, original, template, place)["wrong"] is not None


if __name__ == "__main__":
    # Whatever asks for very much more than the baseline shall fail rather than take the machine down.
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    print(json.dumps(survey(int(sys.argv[1]), int(sys.argv[2]))))
