"""What the tests of pages share: hostile texts, a look at their elements, a browser if there is one."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from browser import CHROMIUM

needs_browser = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")

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
