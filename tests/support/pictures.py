"""Take a picture of a page for docs/: python tests/pictures.py page.html picture.png [width height [light|dark]]"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from support.browser import browsing


def take(page: Path, picture: Path, width: int = 1000, height: int = 1200, scheme: str = "light") -> None:
    """The top of `page` in a window of that size, after its charts are drawn."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, browsing(Path(profile)) as browser:
        opened = browser.new_page()
        opened.call("Emulation.setScrollbarsHidden", hidden=True)
        opened.resize(width, height)
        opened.prefer(scheme)
        opened.open(page)
        opened.wait_for("document.body?.dataset.shown !== undefined")
        answer = opened.call("Page.captureScreenshot")  # of what the window shows, not of the whole page
        picture.write_bytes(base64.b64decode(answer["data"]))
        assert not opened.errors, opened.errors


if __name__ == "__main__":
    page, picture, *rest = sys.argv[1:]
    take(Path(page), Path(picture), *map(int, rest[:2]), *rest[2:])
