"""Tokenizer: every text comes back exactly, the separator is never text, and transformers reads the same ids."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from conftest import make_text, random_model, tiny_config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.foreign import FLAGS, tokenizer_of_characters
from tokenizers import models, pre_tokenizers, trainers

from gptlite.checkpoint import hf
from gptlite.checkpoint.gguf_check import odd_texts
from gptlite.checkpoint.saved_step import load, read_tokenizer, save_step
from gptlite.config import ARCHITECTURES
from gptlite.errors import CheckpointError, UsageError
from gptlite.storage.reader import Reader
from gptlite.text.tokenizer import SEPARATOR, Tokenizer, check_vocab_size
from gptlite.text.tokenizer_json import PATTERNS

STRINGS = [
    "",
    " ",
    "Ada finds the river and the bank .\n",
    "  two  spaces  and\ttabs\t\n\n\n",
    "line\r\nline\r\n\r\n",
    "don't we've I'm they'll it's he'd 'tis",
    "天地玄黄，宇宙洪荒。日月盈昃、辰宿列张！",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
    "e\u0301 n\u0303 \u0915\u094d\u0937 \u0e01\u0e33",
    "\u00a0\u2003\u2028\u3000\u200b\ufeff",
    "".join(map(chr, range(1, 32))) + "\x7f\x80\x9f",
    "\U0010ffff\ue000\ufffd",
    "العربية עברית ไทย 한국어 日本語",
    "12345 3.14 1e-9 x_y a+b==c;",
    SEPARATOR,
    f"before{SEPARATOR}after {SEPARATOR} {SEPARATOR}{SEPARATOR}\n",
    "<|endoftext",
    "<|im_start|>user<|im_end|> [MASK] </s> <unk>",
    "ÿ¡Āġ Ġ Ċ",
]


@pytest.fixture(scope="module")
def multilingual() -> Tokenizer:
    """One that merges bytes of other scripts, and has the separator's letters in its text."""
    return Tokenizer.train(["\n".join(STRINGS) * 20, make_text(50)], 600)


@pytest.mark.row("C15", "C34", "C37")
@pytest.mark.parametrize("text", STRINGS, ids=ascii)
def test_every_text_comes_back_exactly(tokenizer: Tokenizer, multilingual: Tokenizer, text: str) -> None:
    for each in (tokenizer, multilingual):
        ids = each.encode(text)
        assert each.decode(ids) == text
        assert each.separator_id not in ids
        assert all(0 <= i < each.vocab_size for i in ids)


@pytest.mark.row("C15", "C34", "C37")
@settings(deadline=None, max_examples=200)
@given(st.text())
@example("\x00")
@example(SEPARATOR)
def test_any_text_comes_back_exactly(multilingual: Tokenizer, text: str) -> None:
    ids = multilingual.encode(text)
    assert multilingual.decode(ids) == text
    assert b"".join(multilingual.token_bytes[i] for i in ids) == text.encode()
    assert multilingual.separator_id not in ids


def test_a_batch_is_encoded_like_its_texts(multilingual: Tokenizer) -> None:
    assert multilingual.encode_batch(STRINGS) == [multilingual.encode(text) for text in STRINGS]


def test_the_separator_is_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.separator == SEPARATOR
    assert tokenizer.token_bytes[tokenizer.separator_id] == b""
    ids = tokenizer.encode("one")
    assert tokenizer.decode([tokenizer.separator_id, *ids, tokenizer.separator_id, *ids]) == "oneone"


def test_all_bytes_are_tokens(tokenizer: Tokenizer) -> None:
    assert {bytes([b]) for b in range(256)} <= set(tokenizer.token_bytes)
    assert len(set(tokenizer.token_bytes)) == tokenizer.vocab_size  # the separator's is empty


def test_bytes_that_are_no_utf8_become_replacement_characters(tokenizer: Tokenizer) -> None:
    id_of = {b: i for i, b in enumerate(tokenizer.token_bytes)}
    assert tokenizer.decode([id_of[b"a"], id_of[b"\xff"], id_of[b"b"]]) == "a\ufffdb"
    assert tokenizer.decode([id_of[bytes([b])] for b in "é".encode()[:1]]) == "\ufffd"


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_the_stream_joined_is_what_decode_says(multilingual: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, multilingual.vocab_size - 1), max_size=40))
    stream = multilingual.stream()
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.finish() == multilingual.decode(ids)


def test_the_stream_holds_back_unfinished_characters(tokenizer: Tokenizer) -> None:
    id_of = {b: i for i, b in enumerate(tokenizer.token_bytes)}
    stream = tokenizer.stream()
    assert [stream.push(id_of[bytes([b])]) for b in "👍a".encode()] == ["", "", "", "👍", "a"]
    assert stream.finish() == ""
    cut = tokenizer.stream()
    assert [cut.push(id_of[bytes([b])]) for b in "👍".encode()[:2]] == ["", ""]
    assert cut.finish() == "\ufffd"


@pytest.mark.parametrize("vocab_size", [257, 258, 320, 1_000_000])
def test_possible_vocabulary_sizes(vocab_size: int) -> None:
    check_vocab_size(vocab_size)


@pytest.mark.row("C36")
@pytest.mark.parametrize("vocab_size", [256, 0, -1, 1_000_001, 10**12])
def test_impossible_vocabulary_sizes_are_refused(vocab_size: int) -> None:
    with pytest.raises(UsageError, match=f"`vocab_size` must be between 257 .* and 1,000,000, not {vocab_size}"):
        Tokenizer.train([make_text(20)], vocab_size)


def test_the_smallest_vocabulary_is_bytes_and_separator() -> None:
    smallest = Tokenizer.train([make_text(20)], 257)
    assert smallest.vocab_size == 257
    assert smallest.decode(smallest.encode("Ada 天地")) == "Ada 天地"
    assert len(smallest.encode("Ada 天地")) == len("Ada 天地".encode())


def test_the_vocabulary_is_as_large_as_asked_when_the_text_allows() -> None:
    assert Tokenizer.train([make_text()], 300).vocab_size == 300


@pytest.mark.row("C36")
@pytest.mark.parametrize("blocks", [[], [""], ["abc"], ["the cat the cat"]], ids=repr)
def test_small_texts_give_fewer_tokens_than_asked(blocks: list[str]) -> None:
    small = Tokenizer.train(blocks, 5000)
    assert 257 <= small.vocab_size < 270
    assert small.decode(small.encode("anything 天")) == "anything 天"


def test_repeated_words_become_one_token(tokenizer: Tokenizer) -> None:
    assert b" the" in tokenizer.token_bytes
    assert len(tokenizer.encode(" the")) == 1


def test_training_does_not_depend_on_how_often() -> None:
    first, second = (Tokenizer.train([make_text()], 400) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.digest == second.digest != Tokenizer.train([make_text(seed=1)], 400).digest


def test_json_keeps_everything(multilingual: Tokenizer) -> None:
    again = Tokenizer.from_json(multilingual.to_json())
    assert again.digest == multilingual.digest
    assert (again.token_bytes, again.separator_id) == (multilingual.token_bytes, multilingual.separator_id)
    assert again.encode_batch(STRINGS) == multilingual.encode_batch(STRINGS)


@pytest.mark.row("K31")
@pytest.mark.parametrize(
    "garbage",
    ["", "{}", "[]", "null", "not json", '{"model": {}}', '{"version": "1.0", "model": {"type": "BPE"}}', "\x00" * 100],
)
def test_garbage_is_no_tokenizer(garbage: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"some/where (is not JSON|must hold a JSON object|is not byte-level BPE)"
    ):
        Tokenizer.from_json(garbage, "some/where")


def test_a_cut_or_changed_file_is_refused(tokenizer: Tokenizer) -> None:
    text = tokenizer.to_json()
    for broken in (text[: len(text) // 2], text.replace('"merges"', '"merge"')):
        with pytest.raises(CheckpointError):
            Tokenizer.from_json(broken)


def test_a_separator_that_is_missing_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer has no '</s>' token to separate documents"):
        Tokenizer.from_json(tokenizer.to_json(), separator="</s>")


@pytest.mark.row("K32")
def test_an_id_beyond_the_vocabulary_is_refused(tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.to_json())
    content["model"]["vocab"]["!"] = 999
    with pytest.raises(CheckpointError, match="token id 999 lies outside the tokenizer's vocabulary of 320 tokens"):
        Tokenizer.from_json(json.dumps(content))


def word_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel({SEPARATOR: 0, "river": 1, "two words": 2}, unk_token=SEPARATOR))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([SEPARATOR])
    return backend


def sentencepiece_like() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[SEPARATOR], show_progress=False)
    backend.train_from_iterator([make_text(50), "天地"], trainer)
    return backend


@pytest.mark.row("K31")
@pytest.mark.parametrize("make", [word_level, sentencepiece_like])
def test_other_kinds_of_tokenizers_are_refused(make: Callable[[], tokenizers.Tokenizer]) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not byte-level BPE as gptlite reads it"):
        Tokenizer.from_json(make().to_str())


@settings(deadline=None, max_examples=150)
@given(st.text(min_size=1))
def test_spans_cover_the_text(multilingual: Tokenizer, text: str) -> None:
    ids, spans = multilingual.encode_with_spans(text)
    assert ids == multilingual.encode(text)
    assert len(spans) == len(ids)
    assert {at for start, end in spans for at in range(start, end)} == set(range(len(text)))
    for i, (start, end) in zip(ids, spans, strict=True):
        assert start < end
        assert multilingual.token_bytes[i] in text[start:end].encode()
    starts = [start for start, _ in spans]
    assert starts == sorted(starts)


def test_spans_of_plain_words_are_their_letters(tokenizer: Tokenizer) -> None:
    text = "Ada finds the river"
    ids, spans = tokenizer.encode_with_spans(text)
    assert [text[a:b].encode() for a, b in spans] == [tokenizer.token_bytes[i] for i in ids]


def test_byte_lengths_fill_up_the_models_vocabulary(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.byte_lengths(tokenizer.vocab_size + 3)
    assert len(lengths) == tokenizer.vocab_size + 3
    assert lengths[-3:] == [0, 0, 0]
    assert lengths[tokenizer.separator_id] == 0
    ids = tokenizer.encode("Ada 天地\n")
    assert sum(lengths[i] for i in ids) == len("Ada 天地\n".encode())


def test_files_name_the_separator_and_the_context(tokenizer: Tokenizer) -> None:
    files = tokenizer.files(77)
    assert set(files) == {"tokenizer.json", "tokenizer_config.json"}
    settings_ = json.loads(files["tokenizer_config.json"])
    assert (settings_["eos_token"], settings_["bos_token"], settings_["model_max_length"]) == (SEPARATOR, SEPARATOR, 77)
    assert Tokenizer.from_json(files["tokenizer.json"].decode()).digest == tokenizer.digest


@pytest.mark.hf
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_reads_the_same_ids(architecture: str, multilingual: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    config = dataclasses.replace(tiny_config(architecture), vocab_size=multilingual.vocab_size)
    for name, content in multilingual.files(config.context_length).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps(hf.to_hf_config(config, multilingual.separator_id)))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in STRINGS:
        ids = theirs(text)["input_ids"]
        assert ids == multilingual.encode(text), text
        assert theirs.decode(ids) == text
    assert theirs(STRINGS)["input_ids"] == multilingual.encode_batch(STRINGS)
    assert len(theirs) == multilingual.vocab_size
    assert theirs.eos_token_id == theirs.bos_token_id == multilingual.separator_id
    assert theirs.model_max_length == config.context_length
    assert theirs.decode([multilingual.separator_id], skip_special_tokens=True) == ""


@pytest.mark.hf
@pytest.mark.parametrize("n", [500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_cuts_any_text_alike(architecture: str, n: int, multilingual: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    config = dataclasses.replace(tiny_config(architecture), vocab_size=multilingual.vocab_size)
    save_step(tmp_path / "step", random_model(config), multilingual, {})
    texts = odd_texts(n)
    ids = AutoTokenizer.from_pretrained(tmp_path / "step")(texts)["input_ids"]
    assert [text for text, theirs in zip(texts, ids, strict=True) if theirs != multilingual.encode(text)] == []


def test_odd_texts_are_odd() -> None:
    texts = odd_texts(10_000)
    assert len(set(texts)) > 9_800
    assert len({character for text in texts for character in text}) > 100


# -- Tokenizers of others


def with_template(tokenizer: Tokenizer) -> str:
    """As Llama 3 has it: a token of its own stands before every text, and another one ends a document."""
    content = json.loads(tokenizer.to_json())
    for i, name in enumerate(("<|begin|>", "<|end|>")):
        content["added_tokens"].append({"id": tokenizer.vocab_size + i, "content": name, "special": True, **FLAGS})
    begin, text = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<|begin|>": {"id": "<|begin|>", "ids": [tokenizer.vocab_size], "tokens": ["<|begin|>"]}}
    content["post_processor"] = {"type": "TemplateProcessing", "single": [begin, text], "pair": [begin, text]}
    content["post_processor"]["special_tokens"] = special
    return json.dumps(content)


def test_what_a_template_puts_before_a_text_is_known(tokenizer: Tokenizer) -> None:
    assert tokenizer.opening == []
    theirs = Tokenizer.from_json(with_template(tokenizer), choose=lambda special: ("<|begin|>", ("<|end|>",)))
    assert theirs.opening == [theirs.separator_id] == [tokenizer.vocab_size]
    assert theirs.encode("Ada") == tokenizer.encode("Ada"), "and put there by those who write, not by encode"
    assert (theirs.end, theirs.end_ids) == ("<|end|>", {theirs.separator_id, theirs.separator_id + 1})
    assert theirs.decode(sorted(theirs.end_ids)) == ""


def test_files_keep_what_begins_and_what_ends_a_document(tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = Tokenizer.from_json(with_template(tokenizer), choose=lambda special: ("<|begin|>", ("<|end|>",)))
    save_step(tmp_path / "step", random_model(tiny_config("llama", vocab_size=theirs.vocab_size)), theirs, {})
    again = load(tmp_path / "step").tokenizer
    assert (again.separator, again.end, again.end_ids) == (theirs.separator, theirs.end, theirs.end_ids)
    config = json.loads((tmp_path / "step/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (320, [320, 321])


@pytest.mark.hf
@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer"])
def test_what_transformers_saves_is_read(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Their classes write the parts of a tokenizer.json each in their own way."""
    import transformers

    content = json.loads(tokenizer.to_json())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(content["vocab"]))
    (tmp_path / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in content["merges"])
    )
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    files = {"tokenizer_file": str(tmp_path / "tokenizer.json")}
    if name != "PreTrainedTokenizerFast":
        files = {"vocab": str(tmp_path / "vocab.json"), "merges": str(tmp_path / "merges.txt")}
    theirs = getattr(transformers, name)(**files, eos_token=SEPARATOR, unk_token=SEPARATOR, pad_token=SEPARATOR)
    theirs.save_pretrained(tmp_path / "saved")
    with Reader(tmp_path / "saved") as reader:
        ours = read_tokenizer(reader)
    assert ours.cut == ("Qwen" if name == "Qwen2Tokenizer" else "GPT-2")
    assert ours.separator == SEPARATOR
    texts = [text for text in STRINGS if SEPARATOR not in text]
    assert ours.encode_batch(texts) == theirs(texts)["input_ids"]


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}, "GPT-2"),
        ({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}, "its own way"),
        ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}, "its own way"),
        ([{"type": "Digits", "individual_digits": True}, True], "SmolLM"),
        ([{"type": "Digits", "individual_digits": False}, True], "its own way"),
        *(
            ([{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, False], name)
            for regex, name in PATTERNS.items()
        ),
    ],
    ids=str,
)
def test_the_way_of_cutting_has_a_name(tokenizer: Tokenizer, pre_tokenizer: Any, name: str) -> None:
    if isinstance(pre_tokenizer, list):
        last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pre_tokenizer[1]}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [pre_tokenizer[0], last]}
    content = {**json.loads(tokenizer.to_json()), "pre_tokenizer": pre_tokenizer}
    assert Tokenizer.from_json(json.dumps(content)).cut == name


def test_a_template_with_ids_that_are_no_tokens_is_refused(tokenizer: Tokenizer) -> None:
    content = json.loads(with_template(tokenizer))
    content["post_processor"]["special_tokens"]["<|begin|>"]["ids"] = [10**6]
    with pytest.raises(CheckpointError, match="its template puts ids before a text that are no tokens"):
        Tokenizer.from_json(json.dumps(content))


# Characters merged, bytes for the rare ones, as SentencePiece made it for Llama 2


@pytest.fixture(scope="module")
def of_characters() -> dict[str, Any]:
    return tokenizer_of_characters(make_text(50) + "天地")


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@pytest.mark.hf
@pytest.mark.parametrize("form", ["normalizer", "pre_tokenizer"])
def test_a_tokenizer_of_characters_cuts_as_transformers_does(
    of_characters: dict[str, Any], form: str, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    content = dict(of_characters)
    if form == "pre_tokenizer":  # as transformers 5 writes it
        content |= {"normalizer": None, "pre_tokenizer": METASPACE}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    with Reader(tmp_path) as reader:
        ours = read_tokenizer(reader)
    assert (ours.cut, ours.separator, ours.end) == ("Llama 2", "<s>", "</s>")
    for text in [text for text in STRINGS if text and "</s>" not in text]:
        ids = ours.encode(ours.begin(text))
        assert [*ours.opening, *ids] == theirs(text)["input_ids"], text
        assert ours.decode(ids) == ours.begin(text)
        assert ours.begin(text) in (text, f" {text}")


def test_pieces_of_a_text_of_characters_join(of_characters: dict[str, Any]) -> None:
    """Only the beginning of a text has a space thought before it; bytes and spans are those of the text."""
    ours = Tokenizer.from_json(json.dumps(of_characters), "there", "<s>")
    text = "Ada finds the river, 🙂 and\nthe bank ."
    ids, spans = ours.encode_with_spans(text)
    assert b"".join(ours.token_bytes[i] for i in ids) == text.encode()
    assert all(ours.token_bytes[i] in text[a:b].encode() for i, (a, b) in zip(ids, spans, strict=True))
    assert ours.decode([*ours.encode(text[:9]), *ours.encode(text[9:])]) == text
    again = Tokenizer.from_json(ours.to_json(), "there", "<s>")
    assert (again.digest, again.begin("x"), again.encode(text)) == (ours.digest, " x", ids)


@pytest.mark.row("K31")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["model"]["vocab"].pop("<0x41>"), "the id|no token '<0x41>'|lies outside"),
        (lambda c: c["model"].update(unk_token="<x>"), "its unk_token is no token"),
        (lambda c: c.update(normalizer=None), "nothing, or two things, make spaces ▁"),
        (lambda c: c.update(pre_tokenizer=METASPACE), "nothing, or two things, make spaces ▁"),
        (lambda c: c["normalizer"]["normalizers"].append({"type": "Lowercase"}), "its normalizer is"),
        (lambda c: c["normalizer"]["normalizers"].reverse(), "its normalizer is"),
        (lambda c: c.update(pre_tokenizer={**METASPACE, "split": True}), "its pre_tokenizer is"),
        (lambda c: c["decoder"]["decoders"].append({"type": "WordPiece"}), "its decoder is"),
        (lambda c: c["model"].update(dropout=0.1), "its model is"),
    ],
)
def test_other_tokenizers_of_characters_are_refused(
    of_characters: dict[str, Any], change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    content = json.loads(json.dumps(of_characters))
    change(content)
    with pytest.raises(CheckpointError, match=rf"^there.*({named})"):
        Tokenizer.from_json(json.dumps(content), "there", "<s>")
