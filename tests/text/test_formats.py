"""Formats: markup and data are told from prose, and said to be there."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_text

from gptlite.text.corpus import open_text
from gptlite.text.formats import markup_kind
from gptlite.text.options import TextOptions

RECORD = '{"text": "on the bank of the river", "label": 3}\n'


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("data.ndjson", RECORD * 90, "JSON"),
        ("data.json", '[\n  {\n    "text": "on the bank",\n    "label": 3\n  }\n]\n' * 50, "JSON"),
        ("data.txt", RECORD * 90, "JSON"),
        ("one.json", "[" + RECORD.strip() * 900, "JSON"),
        ("book.ipynb", '{\n "cells": [\n  {\n   "cell_type": "code"\n  }\n ]\n}\n' * 50, "JSON"),
        ("t.txt", "id,text,label\n" + "1,on the bank,3\n" * 200, "CSV"),
        ("t.txt", "id\ttext\tlabel\n" + "1\ton the bank\t3\n" * 200, "TSV"),
        ("p.html", "<!DOCTYPE html>\n<html><body>" + "<p>On the bank.</p>\n" * 200, "HTML"),
        ("p.txt", '\n<html lang="en">\n' + "<p>On the bank.</p>\n" * 200, "HTML"),
        ("p.htm", "<p>On the bank.</p>\n" * 200, "HTML"),
        ("p.xml", '<?xml version="1.0"?>\n<doc>' + "<p>On the bank.</p>\n" * 200, "XML"),
        ("p.rtf", "{\\rtf1\\ansi " + "On the bank.\\par\n" * 200, "RTF"),
    ],
)
def test_markup_and_data_are_recognised_and_said(name: str, content: str, kind: str) -> None:
    Path(name).write_text(content)
    said: list[str] = []
    open_text([name], notice=said.append)
    assert len(said) == 1 and f"{name}, looks like {kind}: its keys, tags and separators are read as text" in said[0]
    assert "`as_text=True`" in said[0]
    said.clear()
    open_text([name], notice=said.append, options=TextOptions(as_text=True))
    assert said == []


@pytest.mark.parametrize(
    "content",
    [
        make_text(),
        "# Heading\n\n- a list, of things\n- another, with, commas\n" * 50,
        "[Chorus]\nla la la, la la\n" * 50,
        "{not json} at all, only braces\n" * 50,
        "def f(a, b, c):\n    return {a: b, b: c}\n" * 50,
        "Roses, red roses, and more\nViolets, blue ones, too\nSugar, sweet sugar, also\nAnd, so, are, you\n" * 20,
        "[1] A footnote\n[2] Another one\n" * 50,
        "\\documentclass{article}\n\\begin{document}\nText.\n" * 50,
        "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。\n" * 50,
        '"What?" he said, "no," and left.\n' * 50,
    ],
)
def test_prose_is_not_taken_for_data(content: str) -> None:
    assert markup_kind(content, Path("a.txt")) is None


# Separators that other tools write


def test_a_separator_in_the_text_is_noticed() -> None:
    Path("a.txt").write_text("Once upon a time there was a bank.\n<|endoftext|>\n" * 100)
    said: list[str] = []
    text = open_text(["a.txt"], notice=said.append)
    assert len(said) == 1 and said[0].startswith("<|endoftext|> stands in 1 file, such as a.txt, and is read as text")
    assert "`separator='<|endoftext|>'`" in said[0]
    assert sum(first for first, _ in text.blocks()) == 1


@pytest.mark.parametrize("read_size", [1, 2, 7, 64, 1 << 18])
@pytest.mark.parametrize("separator", ["<|endoftext|>", "%", "===\n"])
def test_a_separator_ends_a_document_and_is_no_text(separator: str, read_size: int) -> None:
    stories = ["Once upon a time.\n\nThe end?", "  Another\r\none", "x", "天地 and\n<|endof"]
    Path("a.txt").write_bytes(f"\n{separator}\n".join([*stories, "", stories[0]]).encode())
    options = TextOptions(separator=separator, keep_line_ends=True)
    text = open_text(["a.txt"], smallest=1, options=options)
    documents: list[str] = []
    for first, block in text.blocks(read_size):
        documents += [""] if first else []
        documents[-1] += block
    assert documents == [*stories, stories[0]]
    assert text.digest != open_text(["a.txt"], smallest=1, options=TextOptions(keep_line_ends=True)).digest
