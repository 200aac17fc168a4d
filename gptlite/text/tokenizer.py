"""Byte-level BPE: any text to ids and back, exactly, with a vocabulary learned from the user's own text.

Byte-level means that the 256 bytes are the alphabet, so no text is unknown and no language is special; BPE (Sennrich et
al. 2016) then merges the pairs that occur most often. Text is first cut by GPT-2's pattern (Radford et al. 2019), the
one that other programs know by name. One id is no text: the separator that stands before every document.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from gptlite.errors import CheckpointError, UsageError
from gptlite.storage.validation import shown
from gptlite.text.background import wait_for
from gptlite.text.pairs import END, PairFormat
from gptlite.text.tokenizer_json import (
    BEFORE_SPACES,
    LARGEST_VOCABULARY,
    NOWHERE,
    PATTERNS,
    SAFE_CUT,
    SPACE,
    byte_of_character,
    byte_token,
    check_tokenizer,
    name_beginning,
    name_cut,
)

SEPARATOR = "<|endoftext|>"
SMALLEST_VOCABULARY = 257  # the bytes and the separator
LONGEST_WORD = 1000  # characters of a word that a vocabulary is learned from
LONG_GAP = re.compile(rf"\s{{{LONGEST_WORD}}}")
ACROSS_SPACE = re.compile(rb"[^ ] ")  # in a token: a space inside
CUTTING = ("added_tokens", "normalizer", "pre_tokenizer", "model")  # parts of a file that decide on the ids of a text


class Tokenizer:
    """A byte-level BPE tokenizer of the `tokenizers` library, and the bytes behind each of its ids."""

    def __init__(self, backend: tokenizers.Tokenizer, separator: str = SEPARATOR, ends: Sequence[str] = ()) -> None:
        # Where characters are merged (Llama 2), a space is thought before each text. Pieces of a text have none, so it
        # is left to those who know where a text begins: see `begin`.
        self._json, self._beginning = None, "never"
        if _is_of_characters(backend):
            self._json = backend.to_str()
            self._beginning = name_beginning(json.loads(self._json))
            backend.normalizer = normalizers.Replace(" ", SPACE)
            backend.pre_tokenizer = None
        # The separator's letters inside a text are ordinary text, never the separator.
        backend.encode_special_tokens = True
        self.backend = backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.separator = separator
        ids = backend.get_vocab(with_added_tokens=True)
        self.separator_id: int = ids[separator]
        # Ours ends a document with the separator of the next one; other models have one token or more for that.
        self.end = ends[0] if ends else separator
        self.end_id: int = ids[self.end]
        self.end_ids = frozenset({self.separator_id, *(ids[end] for end in ends)})
        self.token_bytes: list[bytes] = _bytes_of_tokens(backend)
        # What the file says must stand before any text, such as the "beginning of text" of Llama 3; nothing in ours.
        template, plain = backend.encode("x").ids, backend.encode("x", add_special_tokens=False).ids
        self.opening = template[: template.index(plain[0])] if plain else []
        self.pairs: PairFormat | None = None  # set for models of pairs

    @classmethod
    def train(cls, blocks: Iterable[str], vocab_size: int, special: Sequence[str] = ()) -> Tokenizer:
        """Learn at most `vocab_size` tokens from `blocks` of text (fewer when the text has no more repeated pairs).

        - `special`: names of more tokens that are no text.
        """
        check_vocab_size(vocab_size)
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[SEPARATOR, *special],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        pieces = _without_long_words(blocks)
        wait_for(lambda: backend.train_from_iterator(pieces, trainer))  # the library does not look at signals
        return cls(backend)

    @classmethod
    def from_json(
        cls,
        text: str,
        where: object = "tokenizer.json",
        separator: str = SEPARATOR,
        *,
        choose: Callable[[Mapping[int, str]], tuple[str | None, Sequence[str]]] = lambda special: (None, ()),
    ) -> Tokenizer:
        """The tokenizer in the text of a `tokenizer.json`. Raises `CheckpointError` unless it is byte-level BPE.

        - `separator`: the token that stands before each document, unless `choose` names one.
        - `choose`: of the special tokens, by id, to the separator and those that end a document.
        """
        ids = check_tokenizer(text, where)
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except BaseException as error:  # the library's panics are not derived from Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise CheckpointError(
                f"{where} is not a tokenizer that the tokenizers library can read: {shown(error)}."
            ) from error
        if backend.get_vocab(with_added_tokens=True) != ids:
            raise CheckpointError(f"{where} lists its added tokens in another order than that of their ids.")
        special = backend.get_added_tokens_decoder()
        first, ends = choose({i: token.content for i, token in special.items() if token.special})
        separator = first or separator
        for name in (separator, *ends):
            if name not in ids:
                raise CheckpointError(f"{where}: the tokenizer has no {shown(name)} token to separate documents.")
        tokenizer = cls(backend, separator, ends)
        if any(i >= tokenizer.vocab_size for i in tokenizer.opening):
            raise CheckpointError(f"{where}: its template puts ids before a text that are no tokens.")
        return tokenizer

    def to_json(self) -> str:
        return self._json or self.backend.to_str()

    def with_special(self, names: Sequence[str]) -> Tokenizer:
        """This tokenizer with more tokens that are no text, at the end of its vocabulary.

        Raises `UsageError` where one of the names is a token of text, and for tokenizers of characters.
        """
        known = self.backend.get_vocab(with_added_tokens=True)
        if self._json is not None or any(name in known and self.token_bytes[known[name]] for name in names):
            raise UsageError("the tokenizer of `init_from` cannot be given the boundary tokens of pairs.")
        backend = tokenizers.Tokenizer.from_str(self.to_json())
        backend.add_special_tokens([name for name in names if name not in known])
        return Tokenizer(backend, self.separator)

    def for_pairs(self, pairs: PairFormat | None) -> Tokenizer:
        """A tokenizer whose texts end with the boundary of pairs; of None, one for plain text."""
        ends = (END,) if pairs else ()
        made = Tokenizer(tokenizers.Tokenizer.from_str(self.to_json()), self.separator, ends)
        made.pairs = pairs
        return made

    @property
    def cut(self) -> str:
        """After which family text is cut before it is merged: see `tokenizer_file.name_cut`."""
        return name_cut(json.loads(self.to_json()))

    @cached_property
    def safe_cut(self) -> re.Pattern[str]:
        """Where a text may be cut so that the ids of its parts are those of the whole."""
        if self.cut in (*PATTERNS.values(), "SmolLM"):
            return SAFE_CUT
        # No pattern is known to cut the text, so merges may go on from word to word; with these tokens they cannot.
        return NOWHERE if any(ACROSS_SPACE.search(token) for token in self.token_bytes) else BEFORE_SPACES

    def begin(self, text: str) -> str:
        """The beginning of a text as it is to be encoded: for the tokenizers of Llama 2 with a space before it."""
        has_one = text.startswith((" ", SPACE))
        spaced = self._beginning == "always" or (self._beginning == "first" and not has_one)
        return f" {text}" if text and spaced else text

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def is_like(self, other: Tokenizer) -> bool:
        """Does it make the same ids of every text? Other programs write the same tokenizer with other frills."""
        ours, theirs = ({n: part for n, part in json.loads(t.to_json()).items() if n in CUTTING} for t in (self, other))
        return ours == theirs and (self.opening, self.separator_id) == (other.opening, other.separator_id)

    def files(self, context_length: int) -> dict[str, bytes]:
        """The tokenizer's files of a Hugging Face model directory, by name."""
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.separator,
            "eos_token": self.end,
            "unk_token": self.separator,
            "add_bos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
            "model_max_length": context_length,
            **(self.pairs.settings() if self.pairs else {}),
        }
        return {
            "tokenizer.json": self.to_json().encode(),
            "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode(),
        }

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, computed in parallel."""
        batch = list(texts)
        return [e.ids for e in wait_for(lambda: self.backend.encode_batch_fast(batch, add_special_tokens=False))]

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and for each the characters [start, end) of `text` that it covers."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_batch_with_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """`encode_with_spans` of several texts, computed in parallel."""
        batch = list(texts)
        encodings = wait_for(lambda: self.backend.encode_batch(batch, add_special_tokens=False))
        return [(e.ids, e.offsets) for e in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; separators vanish, bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", errors="replace")

    def byte_lengths(self, vocab_size: int) -> list[int]:
        """Bytes of text behind each of `vocab_size` ids; 0 for separators and for ids that spell nothing."""
        lengths = [len(b) for b in self.token_bytes]
        return lengths + [0] * (vocab_size - len(lengths))

    def stream(self) -> StreamDecoder:
        return StreamDecoder(self.token_bytes)


class StreamDecoder:
    """Ids one at a time to text, holding back a character until all its bytes are there.

    The pieces joined are exactly `Tokenizer.decode` of all ids.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self.token_bytes = token_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self.decoder.decode(self.token_bytes[token])

    def finish(self) -> str:
        """What was held back; U+FFFD for a character whose end never came."""
        return self.decoder.decode(b"", final=True)


def check_vocab_size(vocab_size: int) -> None:
    """Raises `UsageError` unless the size is possible; the library aborts the process on some that are not."""
    if not SMALLEST_VOCABULARY <= vocab_size <= LARGEST_VOCABULARY:
        raise UsageError(
            f"`vocab_size` must be between {SMALLEST_VOCABULARY} (the bytes and the separator) and "
            f"{LARGEST_VOCABULARY:,}, not {vocab_size}."
        )


def _without_long_words(blocks: Iterable[str]) -> Iterator[str]:
    """The same text, cut up where words or gaps are long: the library's time grows with the square of their length."""
    for block in blocks:
        longest = max(map(len, block.replace("\n", " ").split(" ")))
        if longest <= LONGEST_WORD and not LONG_GAP.search(block):
            yield block
        else:
            yield from (block[i : i + LONGEST_WORD] for i in range(0, len(block), LONGEST_WORD))


def _is_of_characters(backend: tokenizers.Tokenizer) -> bool:
    return isinstance(backend.model, models.BPE) and backend.model.byte_fallback


def _bytes_of_tokens(backend: tokenizers.Tokenizer) -> list[bytes]:
    byte_of, added = byte_of_character(), backend.get_added_tokens_decoder()
    fallback = {byte_token(byte): bytes([byte]) for byte in range(256)}
    of_characters = _is_of_characters(backend)
    table = [b""] * backend.get_vocab_size(with_added_tokens=True)
    for token, i in backend.get_vocab(with_added_tokens=True).items():
        if i in added:  # these are spelled as they are, and the special ones are no text
            table[i] = b"" if added[i].special else token.encode()
        elif of_characters:
            table[i] = fallback.get(token) or token.replace(SPACE, " ").encode()
        else:
            table[i] = bytes(byte_of[character] for character in token)
    return table
