"""The page of a server in a browser: it writes what the server draws, shows what Python computes, and has no error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import Page
from support.pages import needs_browser
from support.serving import Running, running, tiny_model

import gptlite
from gptlite.device import choose_hardware
from gptlite.evaluation import inspection
from gptlite.report.live import page as live
from gptlite.report.page import visible
from gptlite.serving.limits import Limits
from gptlite.text.tokenizer import Tokenizer

READY = "document.body?.dataset.ready === 'true'"
pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(page: Page) -> Page:
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    return page


def show(page: Page, server: Running, *, until: str = READY) -> None:
    page.errors.clear()
    page.requests.clear()
    page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
    page.wait_for(until, 60)


def ask(page: Page, call: str, *values: Any) -> Any:
    """The answer of the server as the page has it, arrays as lists."""
    told = ", ".join(json.dumps(value) for value in (call, *values))
    plain = "(_, x) => (ArrayBuffer.isView(x) ? [...x] : x)"
    return json.loads(page.evaluate(f"remote({told}).then((x) => JSON.stringify(x, {plain}))"))


def written(page: Page) -> str:
    return page.evaluate("document.getElementById('written').textContent")


def check_quiet(page: Page, server: Running) -> None:
    assert page.errors == [] and page.nameless() == []
    here = f"http://127.0.0.1:{server.port}/"
    assert {url for url in page.requests if not url.startswith(here)} <= {"data:,"}
    assert server.reports == []


def test_it_writes_what_the_server_draws_and_asks_for_its_key(page: Page, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = tiny_model(tmp_path, tokenizer)
    (greedy,) = model.generate("Ada <b>finds", temperature=0, max_new_tokens=30)
    with running(model, api_key="key", limits=Limits(max_new_tokens=30)) as server:
        show(page, server, until="document.readyState === 'complete' && !document.getElementById('key-form').hidden")
        assert "Authorization: Bearer" in page.evaluate("document.getElementById('status').textContent")
        page.errors.clear()  # the answer 401 is one
        page.evaluate("document.getElementById('key').value = 'key'")
        page.evaluate("document.getElementById('key-form').requestSubmit()")
        page.wait_for(READY)
        page.evaluate("document.getElementById('prompt').value = 'Ada <b>finds'")
        page.evaluate("document.getElementById('temperature').value = 0")
        page.evaluate("document.getElementById('prompt').dispatchEvent(new Event('input'))")
        page.wait_for("document.getElementById('written').textContent === 'Ada <b>finds' && writing.logits")
        page.evaluate("document.getElementById('go').click()")
        page.wait_for("document.body.dataset.written !== undefined")
        assert written(page).removesuffix("■") == "Ada <b>finds" + visible(greedy.text)
        assert page.evaluate("document.title") == f"{server.service.served.name} · gptlite"
        check_quiet(page, server)
        assert not [entry for entry in server.log if entry.path == "/page" and entry.status < 400]


def test_a_stop_ends_the_work_of_the_server(page: Page, tmp_path: Path, tokenizer: Tokenizer) -> None:
    with running(tiny_model(tmp_path, tokenizer)) as server:
        show(page, server)
        page.evaluate("model.sampling.max_new_tokens = 4000")
        page.evaluate("model.special.ends = []")
        engine = server.service.engine
        page.evaluate("document.getElementById('go').click()")
        server.wait_until(lambda: engine.n_waiting == 1)
        page.evaluate("document.getElementById('go').click()")
        server.wait_until(lambda: engine.n_waiting == 0)
        page.wait_for("document.body.dataset.written !== undefined")
        n = page.evaluate("writing.ids.length")
        assert n < 4000
        page.evaluate("document.getElementById('one').click()")
        page.wait_for(f"writing.ids.length === {n + 1}")
        check_quiet(page, server)


def test_what_it_shows_is_what_python_computes(page: Page, trained_run: Path) -> None:
    model = gptlite.load(trained_run)
    text = "Ada finds the river and the bank ."
    with running(model) as server:
        show(page, server)
        ids = [model.tokenizer.separator_id, *ask(page, "encode", text)["ids"]]
        assert ids[1:] == model.tokenizer.encode(text)
        assert ask(page, "encode", "🙂 bank")["spans"][-1][1] == len("🙂 bank") + 1  # as JavaScript counts
        hardware = choose_hardware("cpu", "fp32")
        reading = inspection.read(model.model, model.tokenizer, text, hardware, lens=True)
        np.testing.assert_allclose(ask(page, "start", "look", ids)["bits"][1:], reading.surprisal, atol=1e-3)
        maps = np.reshape(ask(page, "maps", "look", len(ids)), (model.config.n_layers, model.config.n_heads, -1))
        assert np.allclose(maps[..., 0], 1) and np.allclose(maps[..., 1] + maps[..., 2], 1, atol=1e-5)
        assert reading.lens is not None
        for i in (0, 3):
            column = ask(page, "lens", "look", i, ids[i + 1])
            np.testing.assert_allclose([layer["bits"] for layer in column], reading.lens.surprisal[:, i], atol=1e-3)
        step = ask(page, "step", "look", 1, 0, 5)
        assert sum(step["weights"]) == pytest.approx(1, abs=1e-5) and len(step["keys"]) == len(step["values"]) == 6
        np.testing.assert_allclose(np.array(step["weights"]) @ np.array(step["values"]), step["output"], atol=1e-4)
        np.testing.assert_allclose(step["weights"], maps[1, 0][15:21], atol=1e-4)
        for tab, done in (("look", "document.body.dataset.shown"), ("words", "document.body.dataset.compared")):
            page.evaluate(f"document.getElementById('tab-{tab}').click()")
            page.wait_for(f"{done} !== undefined")
        nearest = ask(page, "nearest", model.tokenizer.encode(" river"), 3)
        assert nearest[0][0] == "river" and nearest[0][1] == pytest.approx(1, abs=1e-5)
        check_quiet(page, server)


def test_a_model_of_pairs_answers_the_prompt(page: Page, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = tiny_model(tmp_path, tokenizer, "messages")
    (known,) = model.generate("Ada finds", temperature=0, max_new_tokens=12)
    with running(model, limits=Limits(max_new_tokens=12)) as server:
        show(page, server)
        page.evaluate("document.getElementById('temperature').value = 0")
        page.evaluate("document.getElementById('prompt').value = 'Ada finds'")
        page.evaluate("document.getElementById('prompt').dispatchEvent(new Event('input'))")
        page.wait_for("document.getElementById('written').textContent === 'Ada finds' && writing.logits")
        page.evaluate("document.getElementById('go').click()")
        page.wait_for("document.body.dataset.written !== undefined")
        assert written(page).removesuffix("■") == "Ada finds" + visible(known.text)
        check_quiet(page, server)


def test_it_has_nothing_of_the_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    content, policy = live.served()
    with running(tiny_model(tmp_path, tokenizer), api_key="key") as server:
        answer = server.ask("/")
        assert answer.body.decode() == content and answer.headers["content-security-policy"].startswith(policy)
        assert "unsafe" not in policy and "http" not in policy and "'self'" not in policy.split("; ")[1]
        assert server.ask("/page/model", {}).status == 401
