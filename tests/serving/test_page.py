"""The page of a server in a browser: it writes what the server answers, under its policy and without an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import CHROMIUM, browsing
from support.serving import running, tiny_model

from gptlite.text.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")


def test_the_page_writes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = tiny_model(tmp_path, tokenizer)
    (known,) = model.generate("Ada <b>finds", seed=3, max_new_tokens=30)
    with running(model, api_key="key") as server, browsing(tmp_path / "profile") as browser:
        page = browser.new_page()
        page.call(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        page.wait_for("document.readyState === 'complete' && !document.getElementById('key_label').hidden")
        page.wait_for("document.getElementById('status').textContent.includes('Authorization')")
        page.errors.clear()  # the answer 401 is one
        values = {"prompt": "Ada <b>finds", "seed": "3", "max_tokens": "30", "key": "key"}
        for name, value in values.items():
            page.evaluate(f"document.getElementById('{name}').value = '{value}'")
        page.evaluate("document.getElementById('write').click()")
        page.wait_for("document.getElementById('status').textContent === 'seed 3'")
        assert page.evaluate("document.getElementById('text').textContent") == "Ada <b>finds" + known.text
        assert not page.errors and not page.nameless()
        assert {url for url in page.requests if not url.startswith(f"http://127.0.0.1:{server.port}/")} <= {"data:,"}
