"""What the tests of pages share: hostile texts, a look at their elements, a browser if there is one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html.parser import HTMLParser

import numpy as np
import pytest
from support.browser import CHROMIUM

from gptlite.embedding.similarity import cosine_matrix, principal_axes
from gptlite.report.occurrences import Occurrences

# Continuous integration installs Chromium: there these tests fail without it.
needs_browser = pytest.mark.skipif(not CHROMIUM and "CI" not in os.environ, reason="Chromium is not installed")

# Text before a word, the word, and text after it, that would do something if they were anything but text.
HOSTILE = [
    ("</script><script>window.hacked = 1</script> ", "bank", " <img src=x onerror='window.hacked = 2'>"),
    ('"><svg onload=window.hacked=3> ', "<b>bank</b>", " javascript:window.hacked=4 </table></title>"),
    ("datum.x {{ 7 * 7 }} {% raw %} ${7*7} ", "bank", " \u2028\u2029\u202e\x00\x1b[2J\ud800 &lt;i&gt; <!-- "),
    ("http://example.org/x.js //example.org/y url(z) @import 'w' ", "{{constructor}}", " ]]> \\u003c \\"),
]
NO_ELEMENTS = "document.querySelectorAll('img, b > *, td script, td svg, iframe, object').length"


def seen(text: str) -> str:
    """How a page shows a text that holds what cannot be seen."""
    return re.sub("[\u2028\u2029\ud800]", "�", text.translate({0: "␀", 0x1B: "␛"}))


class Elements(HTMLParser):
    """All elements of a page, and the text in those of some names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.elements[-1][0] if self.elements else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def check_attributes(self) -> None:
        """No element runs, loads or sends anything, and none carries a style of its own."""
        names = {name for _, attributes in self.elements for name in attributes}
        forbidden = ("src", "href", "action", "srcset", "style")
        assert not {name for name in names if name.startswith("on") or name in forbidden}


BANKS = [
    ("She sat on the river ", "bank", " and fished."),
    ("He paid the money into the ", "bank", "."),
    ("The ", "bank", " approved the loan."),
    ("They walked along the grassy ", "bank", " of the stream."),
]


def occurrences_of(texts: Sequence[tuple[str, str, str]], n_layers: int = 2, *, measured: bool = True) -> Occurrences:
    """Vectors that are random, but for two groups that part more and more from layer to layer."""
    n, rng = len(texts), np.random.default_rng(0)
    group = np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]
    vectors = np.stack([rng.normal(size=(n, 8)) + layer * group for layer in range(n_layers + 1)])
    words = [word for _, word, _ in texts]
    static = np.stack([np.random.default_rng(words.index(word)).normal(size=8) for word in words])
    places, shares = principal_axes(vectors)
    quantiles = np.linspace(-0.4, 0.9, 101)
    return Occurrences(
        texts=texts,
        n_left=[len(left.split()) for left, _, _ in texts],
        expected=[(" of", "\n") for _ in texts],
        places=places,
        shares=shares,
        cosines=np.stack([cosine_matrix(layer) for layer in vectors]),
        static_places=principal_axes(static)[0],
        static_cosines=cosine_matrix(static),
        scales={
            "unrelated": np.full((n_layers + 1, 2), (0.01, 0.1)), "same_word": np.full((n_layers + 1, 2), (0.42, 0.13)),
        } if measured else {},
        quantiles=dict.fromkeys(("unrelated", "same_word"), np.tile(quantiles, (n_layers + 1, 1))) if measured else {},
        forms=[words.index(word) for word in words],
        tokens=[words.index(word) for word in words],
        prefixes=list(range(n)),
        unit="word",
        layer=n_layers,
        correction="z-scored",
        notes=["the model reads left to right <b>."],
        facts={"gptlite": "0", "model": "run </dd><script>window.hacked = 5</script>"},
    )  # fmt: skip


def banks() -> Occurrences:
    return occurrences_of(BANKS)
