"""What a `tokenizer.json` may hold: BPE of bytes as gptlite, GPT-2, Llama 3 and Qwen write it, BPE of characters as
Llama 2 does (SentencePiece, with bytes for the rare ones), and nothing else.

The library that reads such files stops the process, fills the memory or takes for ever on some of them; so each part
of a file is compared with what is known here before the library sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gptlite.errors import CheckpointError
from gptlite.storage.validation import is_count, parse_object, shown

LARGEST_VOCABULARY = 1_000_000
MOST_MERGES = 1_000_000
MOST_ADDED = 10_000
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
PATTERNS = {  # that cut a text before it is merged; other patterns may take exponential time
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "GPT-2",
    WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "Llama 3",
    WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "Qwen",
}

# Places where each of these patterns ends a piece whatever follows, so that both sides tokenize as if they stood alone:
# before a space that follows a character, before a line end that follows a letter or digit (other characters take line
# ends along), and between an ideograph and punctuation (which letters that follow may take along).
SAFE_CUT = re.compile(r"(?<=\S)(?= )|(?<=[^\W_])(?=\n)|(?<=[一-鿿])(?=[。，、；：！？])")
BEFORE_SPACES = re.compile(r"(?<=[^\s▁])(?= )")
NOWHERE = re.compile(r"(?!)")

SPACE = "▁"  # what stands for a space where characters are merged

Check = Callable[[Any], bool]


def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the others for U+0100 and up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def check_tokenizer(text: str, where: object = "tokenizer.json") -> dict[str, int]:
    """The ids of all tokens. Raises `CheckpointError` unless `text` is a tokenizer whose every part is known."""
    content = parse_object(text, where)
    of_characters = is_of_characters(content)
    for name, check in (PARTS_OF_CHARACTERS if of_characters else PARTS).items():
        if not check(content.get(name)):
            kind = "BPE with byte fallback" if of_characters else "byte-level BPE"
            raise CheckpointError(
                f"{where} is not {kind} as gptlite reads it: its {name} is {shown(content.get(name))}."
            )
    if unknown := content.keys() - PARTS.keys():
        raise CheckpointError(f"{where} has the unknown part {shown(min(unknown))}.")
    vocabulary = content["model"]["vocab"]
    ids = _check_ids(vocabulary, content["added_tokens"], where)
    if of_characters:
        _check_fallback(content, ids, where)
    else:
        _check_spelling(vocabulary, {token["content"] for token in content["added_tokens"]}, where)
    _check_merges(vocabulary, content["model"]["merges"], where)
    return ids


def name_cut(content: dict[str, Any]) -> str:
    """After which family a `tokenizer.json` cuts a text before it merges: the names of PATTERNS, SmolLM, Llama 2.

    "its own way" for other combinations of known parts.
    """
    if is_of_characters(content):
        return "Llama 2"
    first = content["pre_tokenizer"]
    parts = first["pretokenizers"] if first["type"] == "Sequence" else [first]
    *cuts, last = parts
    by_words = last.get("use_regex", True)
    if last["add_prefix_space"] or len(cuts) > 1:
        return "its own way"
    if not cuts:
        return "GPT-2" if by_words else "its own way"
    if cuts[0]["type"] == "Split" and not by_words:
        return PATTERNS[cuts[0]["pattern"]["Regex"]]
    return "SmolLM" if cuts[0] == {"type": "Digits", "individual_digits": True} and by_words else "its own way"


def is_of_characters(content: dict[str, Any]) -> bool:
    """Is it BPE that merges characters, and spells those that are no tokens in bytes, as Llama 2 has it?"""
    model = content.get("model")
    return isinstance(model, dict) and model.get("byte_fallback") is True


def name_beginning(content: dict[str, Any]) -> str:
    """When a file of that kind puts a space before a text: "always", "first" (unless there is one), "never"."""
    if content["normalizer"] is not None:
        return "always"
    cut = content["pre_tokenizer"]
    scheme = cut.get("prepend_scheme", "always" if cut.get("add_prefix_space", True) else "never")
    return "never" if scheme == "never" else "first"


def _check_ids(vocabulary: dict[str, Any], added: list[dict[str, Any]], where: object) -> dict[str, int]:
    """The ids must be 0, 1, 2, ..., each for one token."""
    ids = dict(vocabulary)
    for token in added:
        if ids.setdefault(token["content"], token["id"]) != token["id"]:
            raise CheckpointError(f"{where} gives the token {shown(token['content'])} two ids.")
    if len(ids) > LARGEST_VOCABULARY:
        raise CheckpointError(f"{where} has {len(ids):,} tokens, and {LARGEST_VOCABULARY:,} are the most.")
    seen: set[int] = set()
    for token, i in ids.items():
        if not is_count(i):
            raise CheckpointError(f"{where} gives the token {shown(token)} the id {shown(i)}, which is no number.")
        if i >= len(ids):
            raise CheckpointError(
                f"{where}: token id {i} lies outside the tokenizer's vocabulary of {len(ids)} tokens."
            )
        if i in seen:
            raise CheckpointError(f"{where} gives the id {i} to two tokens.")
        seen.add(i)
    return ids


def _check_spelling(vocabulary: dict[str, Any], added: set[str], where: object) -> None:
    """All tokens but added ones are spelled in stand-ins for bytes, and every byte is a token: no text is unknown."""
    alphabet = byte_of_character().keys()
    spelled = vocabulary.keys() - added
    if strange := set().union(*spelled) - alphabet:
        token = next(t for t in vocabulary if t in spelled and not alphabet >= set(t))
        raise CheckpointError(f"{where} is not byte-level BPE: token {shown(token)} holds {min(strange)!r}.")
    if missing := alphabet - vocabulary.keys():
        raise CheckpointError(f"{where} is not byte-level BPE: {len(missing)} of the 256 bytes are no tokens.")


def _check_fallback(content: dict[str, Any], ids: dict[str, int], where: object) -> None:
    """All bytes must be tokens, so that no text is unknown; and the space needs its stand-in."""
    missing = [name for name in (SPACE, *map(byte_token, range(256))) if name not in content["model"]["vocab"]]
    if missing:
        raise CheckpointError(f"{where} is not BPE with byte fallback: it has no token {shown(missing[0])}.")
    if content["model"].get("unk_token") not in (None, *ids):
        raise CheckpointError(f"{where}: its unk_token is no token.")
    if (content["normalizer"] is None) == (content["pre_tokenizer"] is None):
        raise CheckpointError(f"{where} is not BPE with byte fallback: nothing, or two things, make spaces {SPACE}.")


def byte_token(byte: int) -> str:
    """How a byte is spelled where characters are merged."""
    return f"<0x{byte:02X}>"


def _check_merges(vocabulary: dict[str, Any], merges: list[Any], where: object) -> None:
    """Each merge joins two tokens into a third; pairs stand in lists, or in older files in one text with a space."""
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise CheckpointError(f"{where}: the merge {shown(merge)} is no pair of tokens.")
        if not (pair[0] in vocabulary and pair[1] in vocabulary and pair[0] + pair[1] in vocabulary):
            raise CheckpointError(f"{where}: the merge {shown(merge)} is not one of tokens of the vocabulary.")


# -- One check for each part of the file


def _is(*values: Any) -> Check:
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _lists(check: Check, most: int = 8) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(check(item) for item in value)


def _holds(required: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    """An object with all of the required names, perhaps some of the optional ones, and no others."""
    known = {**(optional or {}), **required}

    def check(value: Any) -> bool:
        if not isinstance(value, dict) or not required.keys() <= value.keys() <= known.keys():
            return False
        return all(known[name](item) for name, item in value.items())

    return check


def _one_of(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


BYTE_LEVEL = _holds(
    {"type": _is("ByteLevel"), "add_prefix_space": _is_bool, "trim_offsets": _is_bool}, {"use_regex": _is_bool}
)
CUT = _one_of(
    BYTE_LEVEL,
    _holds({"type": _is("Digits"), "individual_digits": _is_bool}),
    _holds(
        {
            "type": _is("Split"),
            "pattern": _holds({"Regex": _is(*PATTERNS)}),
            "behavior": _is("Isolated"),
            "invert": _is(False),
        }
    ),
)
PIECE = _one_of(
    _holds({"SpecialToken": _holds({"id": _is_text, "type_id": _is(0, 1)})}),
    _holds({"Sequence": _holds({"id": _is("A", "B"), "type_id": _is(0, 1)})}),
)
SPECIAL = _holds({"id": _is_text, "ids": _lists(is_count), "tokens": _lists(_is_text)})


def _is_template(value: Any) -> bool:
    """Which special tokens stand around a text; those that it names must be among those that it explains."""
    shape = _holds(
        {
            "type": _is("TemplateProcessing"),
            "single": _lists(PIECE),
            "pair": _lists(PIECE),
            "special_tokens": lambda tokens: isinstance(tokens, dict) and all(map(SPECIAL, tokens.values())),
        }
    )
    if not shape(value):
        return False
    named = [piece["SpecialToken"]["id"] for piece in (*value["single"], *value["pair"]) if "SpecialToken" in piece]
    explained = value["special_tokens"]
    return all(name in explained for name in named) and all(
        token["id"] == name and len(token["ids"]) == len(token["tokens"]) for name, token in explained.items()
    )


AROUND = _one_of(BYTE_LEVEL, _is_template)
PARTS: dict[str, Check] = {
    "version": _is("1.0"),
    "truncation": _is(None),
    "padding": _is(None),
    "added_tokens": _lists(
        _holds(
            {"id": is_count, "content": _is_text, "special": _is_bool}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), _is_bool)
        ),
        MOST_ADDED,
    ),
    "normalizer": _one_of(_is(None), _holds({"type": _is("NFC")})),
    "pre_tokenizer": _one_of(
        BYTE_LEVEL,
        _holds(
            {"type": _is("Sequence"), "pretokenizers": lambda cuts: _lists(CUT)(cuts) and BYTE_LEVEL((cuts or [0])[-1])}
        ),
    ),
    "post_processor": _one_of(_is(None), AROUND, _holds({"type": _is("Sequence"), "processors": _lists(AROUND)})),
    "decoder": _one_of(_is(None), BYTE_LEVEL),
    "model": _holds(
        {"vocab": lambda value: isinstance(value, dict), "merges": _lists(lambda merge: True, MOST_MERGES)},
        {
            "type": _is("BPE"),
            "dropout": _is(None),
            "unk_token": lambda value: value is None or isinstance(value, str),
            "continuing_subword_prefix": _is(None, ""),
            "end_of_word_suffix": _is(None, ""),
            "fuse_unk": _is_bool,
            "byte_fallback": _is(False),
            "ignore_merges": _is_bool,
        },
    ),
}
_MARK = _holds({"type": _is("Replace"), "pattern": _holds({"String": _is(" ")}), "content": _is(SPACE)})
_UNMARK = _holds({"type": _is("Replace"), "pattern": _holds({"String": _is(SPACE)}), "content": _is(" ")})
_STRIP = _holds({"type": _is("Strip"), "content": _is(" "), "start": _is(0, 1), "stop": _is(0)})
_PREPEND = _holds({"type": _is("Prepend"), "prepend": _is(SPACE)})
METASPACE = _holds(
    {"type": _is("Metaspace"), "replacement": _is(SPACE), "split": _is(False)},
    {"add_prefix_space": _is_bool, "prepend_scheme": _is("first", "always", "never")},
)


def _is_prepending(value: Any) -> bool:
    """A space before the text, and then a mark for each."""
    if not _holds({"type": _is("Sequence"), "normalizers": _lists(lambda part: True)})(value):
        return False
    parts = value["normalizers"]
    return len(parts) == 2 and _PREPEND(parts[0]) and _MARK(parts[1])


PARTS_OF_CHARACTERS: dict[str, Check] = {
    **PARTS,
    "normalizer": _one_of(_is(None), _is_prepending),
    "pre_tokenizer": _one_of(_is(None), METASPACE),
    "post_processor": _one_of(_is(None), _is_template),
    "decoder": _one_of(
        _is(None),
        _holds(
            {
                "type": _is("Sequence"),
                "decoders": _lists(
                    _one_of(_UNMARK, _STRIP, _holds({"type": _is("ByteFallback")}), _holds({"type": _is("Fuse")}))
                ),
            }
        ),
    ),
    "model": _holds(
        {
            "vocab": lambda value: isinstance(value, dict),
            "merges": _lists(lambda merge: True, MOST_MERGES),
            "byte_fallback": _is(True),
        },
        {
            "type": _is("BPE"),
            "dropout": _is(None),
            "unk_token": lambda value: value is None or isinstance(value, str),
            "continuing_subword_prefix": _is(None, ""),
            "end_of_word_suffix": _is(None, ""),
            "fuse_unk": _is_bool,
            "ignore_merges": _is_bool,
        },
    ),
}
