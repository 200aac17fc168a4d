"""The dataset of a run: its text, split into training and held-out text, shortened and tokenized."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gptlite.checkpoint import run_info
from gptlite.errors import CheckpointError, CorpusError, UsageError
from gptlite.evaluation import memorisation
from gptlite.text import corpus, splitting, token_files
from gptlite.text.options import TextOptions
from gptlite.text.pairs import BOUNDARIES
from gptlite.text.reading import Document
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import pair_data, plan
from gptlite.training.watcher import Watcher

NOTED_COPIES = 0.1  # share of the held-out text from which on a user is told
TOKENIZER_SAMPLE = 64 << 20  # bytes of training text that the vocabulary is learned from


@dataclass(frozen=True)
class Inputs:
    """The texts of a run: what is trained on, what is held out, and the kind of split where that is a share."""

    train: corpus.Text
    val: corpus.Text
    split: str | None = None  # see `splitting`; None where a file is held out
    sources: tuple[Document, ...] = ()  # the files in the order in which they were split

    def documents(self) -> list[dict[str, Any]]:
        """Path, size and digest of each file."""
        documents = dict.fromkeys((*self.sources, *(p.document for p in (*self.train.pieces, *self.val.pieces))))
        return [
            {
                "path": "-" if d.name == corpus.STANDARD_INPUT else str(d.file.absolute()),
                "bytes": d.file_size,
                "sha256": d.digest,
            }
            for d in documents
        ]

    def facts(self) -> dict[str, Any]:
        """Size and digest of what is trained on and of what is held out."""
        parts = (("train", self.train), ("val", self.val))
        return {part: {"bytes": text.n_bytes, "sha256": text.digest} for part, text in parts}


def hold_out(
    text: corpus.Text,
    val: str | float,
    watcher: Watcher,
    options: TextOptions | None = None,
    info: Mapping[str, Any] | None = None,
) -> Inputs:
    """The text to train on and the text held out.

    - `val`: a share of `text` such as "5%" or 0.05, or the name of a file.
    - `info`: the `run.json` of the run that is resumed or opened again; its kind of split is used.
    Raises `UsageError` where nothing or too little is left of either, or where the file is also trained on.
    """
    if (share := splitting.parse_share(val)) is not None:
        kind = None if info is None else info.get("split") or "tail"
        found = splitting.split(text, share, kind)
        if not found.train.pieces or not found.held_out.pieces:
            raise UsageError(f"`val={val!r}` leaves nothing to train on or nothing to hold out; choose another share.")
        if info is None and (described := splitting.describe(found)):
            watcher.notice(described)
        return Inputs(found.train, found.held_out, found.kind, tuple(piece.document for piece in text.pieces))
    name = str(val)
    if re.fullmatch(r"[0-9.]+", name) and not Path(name).exists():
        raise UsageError(f"`val={name!r}` is neither a share nor a file; for a share write {_as_percent(name)}.")
    held_out = corpus.open_text([name], notice=watcher.notice, smallest=1, options=options)
    digests = {p.document.digest for p in held_out.pieces}
    if any(p.document.digest in digests for p in text.pieces):
        raise UsageError(f"`val={name!r}` is also among the texts to train on; leave it out there.")
    return Inputs(text, held_out)


def _as_percent(val: str) -> str:
    """10% of "10", and of "0.1", which means the same."""
    number = float(val) if val.count(".") <= 1 and val != "." else 0.05
    return f"{100 * number if number < 1 else number:g}%"


def remembered_val(val: str | float) -> str:
    """`val` as `run.json` has it: a share in percent, or the absolute path of a file."""
    if (share := splitting.parse_share(val)) is None:
        return str(Path(str(val)).absolute())
    return val if isinstance(val, str) else f"{100 * share:.10g}%"


def is_same_val(val: str | float, remembered: str) -> bool:
    """Does `val` hold out what a run remembers: the same share, or the same file?"""
    share = splitting.parse_share(val)
    return remembered_val(val) == remembered or (share is not None and share == splitting.parse_share(remembered))


def note_copies(texts: Inputs, watcher: Watcher) -> None:
    """Tell the user where much of the held-out text stands in the text to train on, character for character."""
    if pair_data.format_of(texts):
        pair_data.note_duplicates(texts, watcher)
        return
    share, n = memorisation.share_copied(texts.val, texts.train)
    if share >= NOTED_COPIES:
        watcher.notice(
            f"{100 * share:.0f}% of the held-out text also stands in the text to train on, in passages of {n} "
            "characters or more, so its score says little about new text."
        )


def shorten(texts: Inputs, limits: Sequence[int] | None, watcher: Watcher) -> Inputs:
    """Of texts longer than `limits` (bytes to train on, bytes to hold out), parts spread over the whole."""
    if limits is None:
        return texts
    shorter = dataclasses.replace(texts, train=texts.train.spread(limits[0]), val=texts.val.spread(limits[1]))
    if shorter.train is not texts.train:
        watcher.notice(
            f"there is no time to read all {texts.train.n_bytes / 1e6:,.0f} MB; "
            f"{shorter.train.n_bytes / 1e6:,.0f} MB spread over the whole are used."
        )
    return shorter


def in_order(previous: Mapping[str, Any], text: corpus.Text) -> corpus.Text:
    """The files of `text` in the order that they had when the run began, whatever their names are now."""
    sources = previous.get("inputs", [])
    places: dict[str, list[int]] = {}
    for i, source in reversed(list(enumerate(sources))):
        places.setdefault(source["sha256"], []).append(i)

    def place(piece: corpus.Piece) -> int:
        """Of files with equal contents, which older runs used as often as they were there, the next one's place."""
        free = places.get(piece.document.digest)
        return free.pop() if free else len(sources)

    return corpus.Text(tuple(sorted(text.pieces, key=place)))


def reopen(info: Mapping[str, Any], files: Sequence[str] = ()) -> Inputs:
    """The texts that a run was trained on and held out from it, byte for byte, as its `run.json` describes them.

    - `files`: where the text is now, unless it is where it was.
    Raises `CorpusError` when it is gone or has changed, and `CheckpointError` when `info` (which `Run.read_info` has
    checked) does not say enough, or not of this text.
    """
    run_info.require(info, "the run.json of the model", "inputs", "arguments", "val", "text")
    paths = {source["sha256"]: source["path"] for source in info["inputs"]}
    if not paths:
        raise CheckpointError("the run.json of the model names no input files, so its text cannot be found.")
    files, val, facts = list(files or info["arguments"]), info["val"], info["text"]
    options, limits = TextOptions.of_run(info), info.get("text_limits_bytes")
    if "-" in files:
        raise CorpusError("the model was trained on standard input, which is not kept.")
    text = corpus.open_text(files, smallest=1, options=options)
    found = {piece.document.digest for piece in text.pieces}
    known = corpus.Text(tuple(piece for piece in text.pieces if piece.document.digest in paths))
    if known.pieces:
        texts = hold_out(in_order(info, known), val, Watcher(), options, info)
        texts = shorten(texts, limits, Watcher())
        if texts.facts() == facts:
            return texts
        found |= {piece.document.digest for piece in texts.val.pieces}
    changed = [path for digest, path in paths.items() if digest not in found]
    if not changed:
        raise CheckpointError(
            f"{next(iter(paths.values()))} is what it was when the model was trained, but what the run.json of the "
            "model says of its parts does not fit it."
        )
    raise CorpusError(f"{changed[0]} is not what it was when the model was trained.")


@dataclass(frozen=True)
class Dataset:
    """Texts, the tokenizer, and both texts as tokens."""

    texts: Inputs
    tokenizer: Tokenizer
    tokens: token_files.TokenFile
    val_tokens: token_files.TokenFile
    companions: Mapping[str, token_files.TokenFile] = field(default_factory=dict)  # texts beside it, by name

    @property
    def all_ids(self) -> np.ndarray:
        """The ids (N,) of everything that is trained on, the text itself last."""
        return np.concatenate([*(other.ids() for other in self.companions.values()), self.tokens.ids()])

    @property
    def digests(self) -> dict[str, str]:
        return {"train": self.tokens.digest, "val": self.val_tokens.digest}


def tokenize(
    texts: Inputs,
    known: Tokenizer | int | None,
    watcher: Watcher,
    companions: Mapping[str, corpus.Text] | None = None,
) -> Dataset:
    """All texts as tokens. A new vocabulary is learned from the text and its `companions` together.

    - `known`: the tokenizer to use, or the size of the vocabulary of a new one; None lets the size of the text decide.
    """
    pairs, others = pair_data.format_of(texts), companions or {}
    if pairs and others:
        raise UsageError(f"`{next(iter(others))}` does not go with pairs and conversations; leave it out.")
    if isinstance(known, Tokenizer):
        tokenizer = known
    else:
        learned = corpus.Text((*texts.train.pieces, *(p for text in others.values() for p in text.pieces)))
        tokenizer = train_tokenizer(learned, known, watcher, BOUNDARIES if pairs else ())
        tokenizer = tokenizer.for_pairs(pairs) if pairs else tokenizer
    tokens = token_files.tokenize(texts.train, tokenizer, progress=partial(watcher.phase, "tokenizing"))
    files = {name: token_files.tokenize(text, tokenizer) for name, text in others.items()}
    return Dataset(texts, tokenizer, tokens, token_files.tokenize(texts.val, tokenizer), files)


def train_tokenizer(
    text: corpus.Text, vocab_size: int | None, watcher: Watcher, special: Sequence[str] = ()
) -> Tokenizer:
    """Learn the vocabulary from the training text alone: nothing of the held-out text leaks into it.

    - `special`: tokens that are no text, besides the separator.
    """
    size = plan.choose_vocab_size(text.n_bytes) if vocab_size is None else vocab_size
    watcher.phase("learning the vocabulary", 0.0)
    if text.n_bytes > TOKENIZER_SAMPLE:
        watcher.notice(f"the vocabulary is learned from {TOKENIZER_SAMPLE >> 20} MiB spread over the text.")
    tokenizer = Tokenizer.train(text.sample(TOKENIZER_SAMPLE), size, special)
    if vocab_size is not None and tokenizer.vocab_size < vocab_size:
        watcher.notice(f"the text has repeated pairs for {tokenizer.vocab_size:,} tokens only, not {vocab_size:,}.")
    return tokenizer
