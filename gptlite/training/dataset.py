"""The dataset of a run: its text, split into training and held-out text, shortened and tokenized."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gptlite.checkpoint import run_info
from gptlite.errors import CorpusError, UsageError
from gptlite.text import corpus, token_files
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import plan
from gptlite.training.watcher import Watcher

TOKENIZER_SAMPLE = 64 << 20  # bytes of training text that the vocabulary is learned from


@dataclass(frozen=True)
class Inputs:
    """The texts of a run: what is trained on, what is held out, and the files they came from."""

    train: corpus.Text
    val: corpus.Text

    def documents(self) -> list[dict[str, Any]]:
        """Path, size and digest of each file."""
        documents = dict.fromkeys(p.document for p in (*self.train.pieces, *self.val.pieces))
        return [{"path": str(d.path.absolute()), "bytes": d.size, "sha256": d.digest} for d in documents]

    def facts(self) -> dict[str, Any]:
        """Size and digest of what is trained on and of what is held out."""
        parts = (("train", self.train), ("val", self.val))
        return {part: {"bytes": text.n_bytes, "sha256": text.digest} for part, text in parts}


def hold_out(text: corpus.Text, val: str, watcher: Watcher, lossy: bool = False) -> Inputs:
    """The text to train on and the text held out.

    - `val`: a share such as "5%" of the end of `text`, or the name of a file.
    Raises `UsageError` where nothing is left of either, or where the file is also trained on.
    """
    if (fraction := _fraction(val)) is not None:
        head, tail = text.split(fraction)
        if not head.pieces or not tail.pieces:
            raise UsageError(f"`val={val!r}` leaves nothing to train on or nothing to hold out; choose another share.")
        return Inputs(head, tail)
    held_out = corpus.open_text([val], notice=watcher.notice, smallest=1, lossy=lossy)
    digests = {p.document.digest for p in held_out.pieces}
    if any(p.document.digest in digests for p in text.pieces):
        raise UsageError(f"`val={val!r}` is also among the texts to train on; leave it out there.")
    return Inputs(text, held_out)


def _fraction(val: str) -> float | None:
    """0.05 of "5%"; None for the name of a file. Raises `UsageError` for an impossible share."""
    if not val.endswith("%"):
        if re.fullmatch(r"[0-9.]+", val) and not Path(val).exists():
            raise UsageError(f"`val={val!r}` is neither a share nor a file; for a share write {_as_percent(val)}.")
        return None
    try:
        fraction = float(val[:-1]) / 100
    except ValueError:
        return None
    if not 0 < fraction <= 0.9:
        raise UsageError(f"`val={val!r}`: hold out more than 0% and at most 90% of the text.")
    return fraction


def _as_percent(val: str) -> str:
    """10% of "10", and of "0.1", which means the same."""
    number = float(val) if val.count(".") <= 1 and val != "." else 0.05
    return f"{100 * number if number < 1 else number:g}%"


def remembered_val(val: str) -> str:
    """`val` as run.json has it: a share as it is, a file with its absolute path."""
    return val if _fraction(val) is not None else str(Path(val).absolute())


def is_same_val(val: str, remembered: str) -> bool:
    """Does `val` hold out what a run remembers: the same share, or the same file?"""
    return remembered_val(val) == remembered or (_fraction(val) is not None and _fraction(val) == _fraction(remembered))


def shorten(texts: Inputs, limits: Sequence[int] | None, watcher: Watcher) -> Inputs:
    """Of texts longer than `limits` (bytes to train on, bytes to hold out), parts spread over the whole."""
    if limits is None:
        return texts
    shorter = Inputs(texts.train.spread(limits[0]), texts.val.spread(limits[1]))
    if shorter.train is not texts.train:
        watcher.notice(
            f"there is no time to read all {texts.train.n_bytes / 1e6:,.0f} MB; "
            f"{shorter.train.n_bytes / 1e6:,.0f} MB spread over the whole are used."
        )
    return shorter


def in_order(previous: Mapping[str, Any], text: corpus.Text) -> corpus.Text:
    """The files of `text` in the order that they had when the run began, whatever their names are now."""
    places = {source["sha256"]: i for i, source in reversed(list(enumerate(previous.get("inputs", []))))}
    return corpus.Text(tuple(sorted(text.pieces, key=lambda piece: places.get(piece.document.digest, len(places)))))


def reopen(info: Mapping[str, Any], files: Sequence[str] = ()) -> Inputs:
    """The texts that a run was trained on and held out from it, byte for byte, as its `run.json` describes them.

    - `files`: where the text is now, unless it is where it was.
    Raises `CorpusError` when it is gone or has changed, and `CheckpointError` when `info` (which `Run.read_info` has
    checked) does not say enough.
    """
    run_info.require(info, "the run.json of the model", "inputs", "arguments", "val", "text")
    paths = {source["sha256"]: source["path"] for source in info["inputs"]}
    files, val, facts = list(files or info["arguments"]), info["val"], info["text"]
    lossy, limits = info.get("lossy", False), info.get("text_limits")
    if "-" in files:
        raise CorpusError("the model was trained on standard input, which is not kept.")
    text = corpus.open_text(files, smallest=1, lossy=lossy)
    found = {piece.document.digest for piece in text.pieces}
    known = corpus.Text(tuple(piece for piece in text.pieces if piece.document.digest in paths))
    if known.pieces:
        texts = shorten(hold_out(in_order(info, known), val, Watcher(), lossy), limits, Watcher())
        if texts.facts() == facts:
            return texts
        found |= {piece.document.digest for piece in texts.val.pieces}
    changed = [path for digest, path in paths.items() if digest not in found] or files
    raise CorpusError(f"{changed[0]} is not what it was when the model was trained.")


@dataclass(frozen=True)
class Dataset:
    """Texts, the tokenizer, and both texts as tokens."""

    texts: Inputs
    tokenizer: Tokenizer
    tokens: token_files.TokenFile
    val_tokens: token_files.TokenFile

    @property
    def digests(self) -> dict[str, str]:
        return {"train": self.tokens.digest, "val": self.val_tokens.digest}


def tokenize(texts: Inputs, known: Tokenizer | int | None, watcher: Watcher) -> Dataset:
    """Both texts as tokens.

    - `known`: the tokenizer to use, or the size of the vocabulary of a new one; None lets the size of the text decide.
    """
    tokenizer = known if isinstance(known, Tokenizer) else train_tokenizer(texts.train, known, watcher)
    tokens = token_files.tokenize(texts.train, tokenizer, progress=partial(watcher.phase, "tokenizing"))
    return Dataset(texts, tokenizer, tokens, token_files.tokenize(texts.val, tokenizer))


def train_tokenizer(text: corpus.Text, vocab_size: int | None, watcher: Watcher) -> Tokenizer:
    """Learn the vocabulary from the training text alone: nothing of the held-out text leaks into it."""
    size = plan.choose_vocab_size(text.n_bytes) if vocab_size is None else vocab_size
    watcher.phase("learning the vocabulary", 0.0)
    if text.n_bytes > TOKENIZER_SAMPLE:
        watcher.notice(f"the vocabulary is learned from {TOKENIZER_SAMPLE >> 20} MiB spread over the text.")
    tokenizer = Tokenizer.train(text.sample(TOKENIZER_SAMPLE), size)
    if vocab_size is not None and tokenizer.vocab_size < vocab_size:
        watcher.notice(f"the text has repeated pairs for {tokenizer.vocab_size:,} tokens only, not {vocab_size:,}.")
    return tokenizer
