"""Token files and batches: what is on disk, when the cache is trusted, and which windows make up step s."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from conftest import make_text
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.foreign import tokenizer_of_characters
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from gptlite.errors import CorpusError, StorageError
from gptlite.paths import cache_directory
from gptlite.text import token_files
from gptlite.text.corpus import Piece, Text, open_text
from gptlite.text.options import TextOptions
from gptlite.text.reading import check_file
from gptlite.text.token_files import TokenFile, tokenize
from gptlite.text.tokenizer import SEPARATOR, Tokenizer
from gptlite.text.tokenizer_json import PATTERNS


class Counter:
    """A tokenizer that counts how often it is asked."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.calls = 0
        self.encode_batch_of = tokenizer.encode_batch
        tokenizer.encode_batch = self  # type: ignore[method-assign, assignment]

    def __call__(self, texts: list[str]) -> list[list[int]]:
        self.calls += 1
        return self.encode_batch_of(texts)


@pytest.fixture
def own_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """One that a test may change."""
    return Tokenizer.from_json(tokenizer.to_json())


@pytest.fixture
def text(corpus_file: Path) -> Text:
    return open_text([str(corpus_file)])


def text_of(name: str, content: str) -> Text:
    Path(name).write_text(content, encoding="utf-8", newline="")
    document = check_file(Path(name), options=TextOptions(keep_line_ends=True))
    return Text((Piece(document, 0, document.size),))


def files_of(cache: Path) -> list[Path]:
    return sorted(p for p in cache.rglob("*") if p.is_file())


# Token files


def test_a_token_file_is_a_separator_and_the_ids_of_each_document(tokenizer: Tokenizer) -> None:
    contents = ["one two\n", "天地 don't\r\n", "the end"]
    text = Text(tuple(p for i, c in enumerate(contents) for p in text_of(f"{i}.txt", c).pieces))
    made = tokenize(text, tokenizer)
    expected = [i for content in contents for i in (tokenizer.separator_id, *tokenizer.encode(content))]
    assert made.ids().tolist() == expected
    assert (made.n_tokens, made.n_bytes, made.dtype) == (len(expected), len("".join(contents).encode()), "<u2")


def test_many_blocks_make_the_same_file_as_one(
    text: Text, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = tokenize(text, tokenizer, cache=tmp_path / "one")
    monkeypatch.setattr(token_files, "BATCH_CHARACTERS", 100)
    blocks = list(text.blocks(64))
    monkeypatch.setattr(Text, "blocks", lambda self, **options: iter(blocks))
    pieces = tokenize(text, tokenizer, cache=tmp_path / "many")
    assert pieces.digest == whole.digest
    assert pieces.ids().tolist() == whole.ids().tolist() == [tokenizer.separator_id, *tokenizer.encode(make_text())]


def test_progress_rises_to_one(text: Text, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "BATCH_CHARACTERS", 1)
    seen: list[float] = []
    tokenize(text, tokenizer, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def large_vocabulary(filler: int) -> Tokenizer:
    """A byte-level tokenizer whose bytes have the ids after `filler` tokens that nothing spells."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {SEPARATOR: 0} | {f"zz{i}": i + 1 for i in range(filler - 1)}
    vocab |= {character: filler + i for i, character in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([SEPARATOR])
    return Tokenizer(backend)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "<u2"), (65_537, "<u4")])
def test_ids_take_two_bytes_while_they_fit(vocab_size: int, dtype: str) -> None:
    tokenizer = large_vocabulary(vocab_size - 256)
    assert tokenizer.vocab_size == vocab_size
    content = bytes(range(1, 128)).decode() + "ÿĀ天"
    made = tokenize(text_of("a.txt", content), tokenizer)
    ids = [tokenizer.separator_id, *tokenizer.encode(content)]
    assert max(ids) > 65_200
    assert (made.dtype, made.ids().tolist()) == (dtype, ids)
    assert made.path.stat().st_size == len(ids) * (2 if dtype == "<u2" else 4)


# The cache


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPTLITE_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.delenv("GPTLITE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "gptlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "gptlite"


def test_a_text_is_tokenized_once(text: Text, own_tokenizer: Tokenizer, tmp_path: Path) -> None:
    counter = Counter(own_tokenizer)
    first = tokenize(text, own_tokenizer)
    assert counter.calls == 1
    second = tokenize(text, own_tokenizer)
    assert counter.calls == 1
    assert second == first
    assert second.path.is_relative_to(tmp_path / "cache")
    assert [p.name for p in files_of(tmp_path / "cache")] == ["facts.json", "ids.bin"]


def test_the_place_and_name_of_a_text_do_not_matter(text: Text, own_tokenizer: Tokenizer, corpus_file: Path) -> None:
    first = tokenize(text, own_tokenizer)
    counter = Counter(own_tokenizer)
    moved = corpus_file.rename(corpus_file.with_name("moved.txt"))
    assert tokenize(open_text([str(moved)]), own_tokenizer) == first
    assert counter.calls == 0


@pytest.mark.row("C39")
@pytest.mark.parametrize(
    "damage",
    [
        "flip",
        "truncate",
        "extend",
        "empty",
        "no ids",
        "no facts",
        "bad facts",
        "other facts",
        "odd dtype",
        "fewer tokens",
    ],
)
def test_a_damaged_entry_is_made_anew(text: Text, own_tokenizer: Tokenizer, damage: str) -> None:
    made = tokenize(text, own_tokenizer)
    ids = made.ids().tolist()
    raw, facts = bytearray(made.path.read_bytes()), made.path.with_name("facts.json")
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
        made.path.write_bytes(raw)
    elif damage == "truncate":
        made.path.write_bytes(raw[:-2])
    elif damage == "extend":
        made.path.write_bytes(raw + b"\x00\x00")
    elif damage == "empty":
        made.path.write_bytes(b"")
    elif damage == "no ids":
        made.path.unlink()
    elif damage == "no facts":
        facts.unlink()
    elif damage == "bad facts":
        facts.write_text('{"dtype": ')
    elif damage == "other facts":
        facts.write_text("[1, 2]")
    else:
        change = {"dtype": "<q9"} if damage == "odd dtype" else {"n_tokens": made.n_tokens - 1}
        facts.write_text(json.dumps({**json.loads(facts.read_text()), **change}))
    counter = Counter(own_tokenizer)
    again = tokenize(text, own_tokenizer)
    assert counter.calls == 1
    assert again == made
    assert again.ids().tolist() == ids
    tokenize(text, own_tokenizer)
    assert counter.calls == 1


@pytest.mark.row("C39")
def test_another_text_or_tokenizer_misses(text: Text, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = [tokenize(text, tokenizer)]
    made.append(tokenize(text, Tokenizer.train([make_text(seed=2)], 310)))
    made.append(tokenize(text_of("other.txt", make_text() + "x"), tokenizer))
    made += [tokenize(part, tokenizer) for part in text.split(0.5)]
    assert len({m.path for m in made}) == len(made)
    assert made[3].n_bytes + made[4].n_bytes == made[0].n_bytes


def test_the_oldest_entries_go_first(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(token_files, "CACHE_ENTRIES", 3)
    texts = [text_of(f"{i}.txt", f"text number {i}\n") for i in range(4)]
    entries = []
    for i, each in enumerate(texts[:3]):
        entries.append(tokenize(each, tokenizer).path.parent)
        os.utime(entries[-1], (i, i))
    tokenize(texts[0], tokenizer)  # used, hence young again
    entries.append(tokenize(texts[3], tokenizer).path.parent)
    assert sorted((tmp_path / "cache").iterdir()) == sorted(entries[i] for i in (0, 2, 3))


@pytest.mark.row("C39")
def test_nothing_but_whole_entries_stays_behind(own_tokenizer: Tokenizer, text: Text, tmp_path: Path) -> None:
    def fail(_: list[str]) -> list[list[int]]:
        raise RuntimeError("in the middle")

    own_tokenizer.encode_batch = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="in the middle"):
        tokenize(text, own_tokenizer)
    assert files_of(tmp_path / "cache") == []
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(text: Text, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write tokens to .*file/cache: .*; free some space or set GPTLITE_"):
        tokenize(text, tokenizer, cache=tmp_path / "file" / "cache")


def test_a_text_that_changed_is_no_matter_of_storage(text: Text, tokenizer: Tokenizer, corpus_file: Path) -> None:
    corpus_file.unlink()
    with pytest.raises(CorpusError, match=r"cannot read .*corpus\.txt"):
        tokenize(text, tokenizer)


# Entries that others may have written, and other processes


def rewrite(made: TokenFile, ids: np.ndarray) -> None:
    """Other ids, with a digest that matches them."""
    raw = ids.astype(made.dtype).tobytes()
    made.path.write_bytes(raw)
    facts = made.path.with_name("facts.json")
    digest = hashlib.sha256(raw).hexdigest()
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "digest": digest, "n_tokens": len(ids)}))


@pytest.mark.row("C44")
@pytest.mark.parametrize("change", ["reversed", "outside", "another text"])
def test_a_rewritten_entry_with_a_right_digest_is_made_anew(text: Text, own_tokenizer: Tokenizer, change: str) -> None:
    made = tokenize(text, own_tokenizer)
    ids = np.array(made.ids())
    changed = ids.copy()
    if change == "outside":
        changed[len(ids) // 2] = own_tokenizer.vocab_size
    elif change == "reversed":
        changed = ids[::-1]
    else:
        changed = np.array([own_tokenizer.separator_id, *own_tokenizer.encode(make_text(seed=5))])
    rewrite(made, changed)
    counter = Counter(own_tokenizer)
    assert tokenize(text, own_tokenizer).ids().tolist() == ids.tolist()
    assert counter.calls == 1


@pytest.mark.row("C44")
@pytest.mark.parametrize("what", ["owner", "writable"])
def test_entries_of_others_are_not_used(
    text: Text, own_tokenizer: Tokenizer, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tokenize(text, own_tokenizer)
    if what == "owner":
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        monkeypatch.setattr(token_files, "_is_ours", lambda entry, real=token_files._is_ours: entry != made.path.parent)
    else:
        made.path.parent.chmod(0o777)
    counter = Counter(own_tokenizer)
    again = tokenize(text, own_tokenizer)
    assert counter.calls == 1
    assert again.path != made.path and again.ids().tolist() == made.ids().tolist()
    tokenize(text, own_tokenizer)
    assert counter.calls == 1, "this user's own entry is used from then on"


@pytest.mark.row("C45")
def test_an_entry_in_use_is_not_removed(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "CACHE_ENTRIES", 1)
    held = tokenize(text_of("held.txt", "text in use\n"), tokenizer)
    os.utime(held.path.parent, (0, 0))
    for i in range(3):
        path = tokenize(text_of(f"{i}.txt", f"text number {i}\n"), tokenizer).path
    assert held.path.exists() and path.exists()
    assert tokenizer.decode(held.ids()) == "text in use\n"
    removed = held.path
    del held
    tokenize(text_of("last.txt", "the last text\n"), tokenizer)
    assert not removed.exists()


COLD_START = """
import sys, time
from pathlib import Path
from gptlite.text import token_files
from gptlite.text.corpus import open_text
from gptlite.text.tokenizer import Tokenizer

token_files.CACHE_ENTRIES = 2
bpe = Tokenizer.from_json(Path("tokenizer.json").read_text())
while not Path("go").exists():
    time.sleep(0.001)
for turn in range(int(sys.argv[1])):
    for name in sorted(p.name for p in Path().glob("*.txt")):
        made = token_files.tokenize(open_text([name], smallest=1), bpe, cache=Path(sys.argv[2]))
        assert bpe.decode(made.ids()) == Path(name).read_text(), name
"""


@pytest.mark.row("C45")
@pytest.mark.parametrize(
    ("processes", "texts", "turns"), [(4, 4, 6), pytest.param(32, 36, 3, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_many_processes_share_a_cold_cache(processes: int, texts: int, turns: int, tokenizer: Tokenizer) -> None:
    """Two caches, too few entries for the texts, and all begin at once: nobody fails, and everybody gets right ids."""
    Path("tokenizer.json").write_text(tokenizer.to_json())
    for i in range(texts):
        Path(f"{i}.txt").write_text(make_text(5, seed=i))
    command = [sys.executable, "-c", COLD_START, str(turns)]
    running = [
        subprocess.Popen([*command, f"cache{i % 2}"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for i in range(processes)
    ]
    Path("go").touch()
    ended = [process.communicate(timeout=600) for process in running]
    assert [errors.decode()[-500:] for _, errors in ended if errors] == []
    assert [process.returncode for process in running] == [0] * processes


# Tokenizers of other programs

SIGNS = [
    ".",
    "\n",
    "\n\n",
    "\r\n",
    " ",
    "  ",
    "a",
    "the",
    "don't",
    "'s",
    "12",
    "天",
    "地",
    "，",
    "。",
    "(",
    "_",
    "e\u0301",
    "\u0301",
]
ODD = st.lists(st.sampled_from(SIGNS), min_size=1, max_size=60).map("".join)


def cut_by(pattern: str | None) -> Tokenizer:
    """A tokenizer that cuts by a pattern, None: nowhere; of text in which signs and line ends are frequent pairs."""
    backend = tokenizers.Tokenizer(models.BPE())
    split = [] if pattern is None else [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level])  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    rng = random.Random(0)
    backend.train_from_iterator(["".join(rng.choices(SIGNS, k=60)) for _ in range(300)], trainer)
    return Tokenizer.from_json(backend.to_str())


@pytest.fixture(scope="module")
def others() -> list[Tokenizer]:
    of_characters = json.dumps(tokenizer_of_characters(make_text(50) + "天地"))
    return [*map(cut_by, PATTERNS), cut_by(None), Tokenizer.from_json(of_characters, "there", "<s>")]


@settings(deadline=None, max_examples=150)
@given(ODD)
@example("the.\n\nthe.\n\n12")
@example("天，地。天，，地\n天。\n地")
@example("e\u0301\nthe\u0301\n\nthe")
def test_blocks_become_the_ids_of_the_whole_text_by_every_pattern(others: list[Tokenizer], content: str) -> None:
    if not content.strip():
        return
    Path("odd.txt").write_bytes(content.encode())
    text = open_text(["odd.txt"], smallest=1)
    whole = "".join(block for _, block in text.blocks())
    for tokenizer in others:
        for read_size in (1, 3, 7):
            blocks = [block for _, block in text.blocks(read_size, tokenizer.safe_cut)]
            assert [i for block in blocks for i in tokenizer.encode(block)] == tokenizer.encode(whole)


def test_text_is_cut_into_blocks_where_that_is_safe(others: list[Tokenizer]) -> None:
    Path("text.txt").write_text("The river runs by the sea. " * 50)
    text = open_text(["text.txt"], smallest=1)
    blocks = [len(list(text.blocks(64, tokenizer.safe_cut))) for tokenizer in others]
    assert min(blocks[:3]) > 10 and blocks[3] == 1 and blocks[4] > 10


def test_bytes_are_those_of_the_text_whatever_the_tokenizer_makes_of_it(others: list[Tokenizer]) -> None:
    """Qwen's composes characters (NFC), and Llama 2's puts a space before each document."""
    backend = tokenizers.Tokenizer.from_str(others[0].to_json())
    backend.normalizer = normalizers.NFC()  # type: ignore[assignment]
    composing = Tokenizer.from_json(backend.to_str())
    decomposed = unicodedata.normalize("NFD", "한국어 문장 하나. café\n" * 10)
    for number in (1, 2):
        Path(f"{number}.txt").write_text(f"{number} {decomposed}")
    n_bytes = 2 * len(f"1 {decomposed}".encode())
    for tokenizer, same in ((others[0], True), (composing, False), (others[-1], False)):
        tokens = tokenize(open_text(["1.txt", "2.txt"], smallest=1), tokenizer)
        spelled = sum(len(tokenizer.token_bytes[i]) for i in tokens.ids())
        assert tokens.n_bytes == n_bytes and (spelled == n_bytes) is same
        assert round(spelled * tokens.byte_scale(tokenizer.token_bytes)) == n_bytes
