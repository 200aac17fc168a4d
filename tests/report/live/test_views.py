"""The views of the page of a model: what they show, by mouse and keyboard, light and dark, on a phone and projected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command, random_model, tiny_config
from support.browser import Page
from support.pages import HOSTILE, NO_ELEMENTS, needs_browser

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import save_step
from gptlite.cli.export import html
from gptlite.config import SamplingConfig
from gptlite.generation.sampling import distribution
from gptlite.report.live import page as live
from gptlite.text.tokenizer import Tokenizer

pytestmark = needs_browser
READY = "document.body?.dataset.ready === 'true'"
SELECTED = "document.querySelector('#grid thead [aria-selected=true]').dataset.at"


def show(page: Page, directory: str | Path, *, width: int = 1200, scheme: str = "light") -> None:
    content, _ = live.render(html.collect(runs.load(directory), "a model"), "f32")
    Path("model.html").write_text(content, encoding="utf-8")
    page.resize(width)
    page.prefer(scheme)
    page.open(Path("model.html"))
    page.wait_for(READY, 120)


def look(page: Page, text: str) -> None:
    page.evaluate(f"(byId('tab-look').click(), byId('text').value = {json.dumps(text)}, readText())")
    page.wait_for("document.body.dataset.shown !== undefined")


def check_quiet(page: Page) -> None:
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith("blob:")] == [Path("model.html").resolve().as_uri()]


def test_sliders_cut_as_the_sampler_does(page: Page, trained_run: Path) -> None:
    show(page, trained_run)
    logits = torch.randn(1, 400, generator=torch.Generator().manual_seed(1)) * 3
    for temperature, k, p, least in ((0.8, 0, 0.95, 0.05), (1.0, 7, 1.0, 0.0), (1.7, 40, 0.6, 0.0), (0.0, 0, 0.9, 0.0)):
        chosen = SamplingConfig(temperature=temperature, top_k=k, top_p=p, min_p=least)
        told = {"temperature": temperature, "top_k": k, "top_p": p, "min_p": least}
        found = page.evaluate(
            f"(({{ ids, drawn }}) => [[...ids], [...drawn]])"
            f"(distribution(Float32Array.from({logits[0].tolist()}), {json.dumps(told)}))"
        )
        ours = np.zeros(400)
        ours[found[0]] = found[1]
        wanted = distribution(logits, chosen)[0] if temperature else np.eye(400)[int(logits.argmax())]
        np.testing.assert_allclose(ours, wanted, atol=1e-6)
    check_quiet(page)


def test_a_bar_is_taken_and_a_token_shows_what_else_could_stand_there(page: Page, trained_run: Path) -> None:
    show(page, trained_run)
    page.evaluate("(byId('prompt').value = 'Ada finds', readPrompt())")
    assert page.evaluate("byId('written').textContent") == "Ada finds"
    bar = page.evaluate("document.querySelector('#next .token').textContent")
    page.evaluate("document.querySelector('#next button').click()")
    page.wait_for("writing.at === writing.ids.length && byId('written').textContent.length > 9")
    assert page.evaluate("byId('written').textContent") == "Ada finds" + bar.replace("_", " ")
    page.evaluate("run(12)")
    n = page.evaluate("writing.ids.length")
    assert page.evaluate("byId('written').children.length") == n
    page.evaluate("byId('written').focus()")
    page.press("Home")
    page.wait_for("byId('next-title').textContent.startsWith('Instead of')")
    assert page.evaluate("document.querySelectorAll('#next .came').length") == 1
    assert page.evaluate("byId('written').querySelectorAll('[aria-selected=true]').length") == 1
    page.evaluate("take(writing.shown.ids[1])")
    assert page.evaluate("byId('next-title').textContent") == "Next token"
    assert page.evaluate("writing.ids.length") < n
    before = page.evaluate("byId('next').textContent")
    page.evaluate("(byId('temperature').value = 2, byId('temperature').dispatchEvent(new Event('input')))")
    assert page.evaluate("byId('next').textContent") != before
    check_quiet(page)


def test_the_first_token_of_a_prompt_can_be_another_one(page: Page, trained_run: Path) -> None:
    show(page, trained_run)
    page.evaluate("(byId('prompt').value = '', readPrompt())")
    anything = page.evaluate("[...writing.logits]")
    page.evaluate("(byId('prompt').value = 'Ada finds', readPrompt())")
    assert page.evaluate("writing.hidden") == 0, "nothing stands before the text"
    page.evaluate("showAt(0)")
    assert page.evaluate("byId('next-title').textContent").startswith("Instead of")
    assert page.evaluate("[...writing.logits]") == pytest.approx(anything)
    chosen = page.evaluate("writing.shown.ids[1]")
    page.evaluate(f"take({chosen})")
    assert page.evaluate("writing.ids") == [page.evaluate("model.special.separator"), chosen]
    wanted = -torch.tensor(anything).log_softmax(-1)[chosen].item() / np.log(2)
    assert page.evaluate("writing.bits") == [None, pytest.approx(wanted)]
    check_quiet(page)


def test_what_is_chosen_is_chosen_everywhere(page: Page, trained_run: Path) -> None:
    show(page, trained_run)
    look(page, "Ada finds the river and the bank .")
    page.evaluate("byId('tokens').focus()")
    page.press("Home")
    page.press("ArrowRight")
    page.wait_for("document.body.dataset.shown.startsWith('1 ')")
    assert page.evaluate(SELECTED) == "1"
    page.evaluate("document.querySelector('#heads button').click()")
    page.wait_for("document.body.dataset.shown === '1 1.1'")
    assert page.evaluate("[...document.querySelectorAll('.head-name')].map((x) => x.textContent)") == [
        "layer 1, head 1",
        "layer 1, head 1",
    ]
    weights = page.evaluate("[...weightsOf(0, 0, 1)]")
    shown = page.evaluate("[...document.querySelectorAll('.weights td')].map((x) => x.textContent).slice(0, 2)")
    assert [float(text.split()[0]) / 100 for text in shown] == pytest.approx(weights, abs=0.006)
    assert page.evaluate("document.querySelectorAll('#arcs path').length") == sum(w >= 0.01 for w in weights)
    page.wait_for("looking.lens.length === looking.ids.length")
    page.evaluate('document.querySelector(\'td[data-at="3"][data-depth="2"]\').click()')
    page.wait_for("document.body.dataset.shown === '3 2.1'")
    page.wait_for("byId('expected').children.length === 8")
    best = page.evaluate('Number(document.querySelector(\'td[data-at="3"][data-depth="2"]\').dataset.best)')
    page.evaluate("document.querySelector('#expected button').click()")
    page.wait_for(f"looking.guess === {best}")
    assert page.evaluate("document.querySelectorAll('#grid td.guessed').length") >= 1
    assert page.evaluate("document.querySelectorAll('#step .strip').length") >= 6
    check_quiet(page)


def test_words_have_the_cosines_of_embed(page: Page, gptlite: Command, trained_run: Path) -> None:
    texts = ("Ada finds the river and the bank", "Bela paints the bank and the clock")
    told = ("-m", trained_run, "-w", "bank", *texts, "--json", "-q")
    pair = json.loads(gptlite("embed", "--context", "left", *told).out)["pairs"][0]
    show(page, trained_run)
    page.evaluate("byId('tab-words').click()")
    for i, text in enumerate(texts):
        page.evaluate(f"setSentence({i}, {json.dumps(text)})")
        page.evaluate(f"markWord({i}, comparing.words[{i}].findIndex((x) => x.text === 'bank'))")
    page.wait_for("document.body.dataset.compared === String(comparing.turn)")
    assert float(page.evaluate("byId('contextual').textContent").replace("−", "-")) == pytest.approx(
        pair["contextual"], abs=0.0051
    )
    assert page.evaluate("byId('static').textContent") == "1.00"
    assert pair["verdict"] in page.evaluate("byId('verdict').textContent")
    assert page.evaluate("byId('neighbours').querySelectorAll('li').length") > 3
    near = page.evaluate("document.querySelector('#neighbours .token').textContent")
    page.evaluate("document.querySelector('#neighbours button').click()")
    page.wait_for(f"document.querySelector('#neighbours figcaption').textContent === 'nearest to {near}'")
    assert page.evaluate("byId('neighbours').querySelectorAll('figure').length") == 1
    check_quiet(page)


def test_hostile_tokens_are_text(page: Page, tokenizer: Tokenizer) -> None:
    nasty = list(dict.fromkeys(x for parts in HOSTILE for x in parts if "\ud800" not in x))
    content = json.loads(tokenizer.to_json())
    frills = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"] += [{"id": tokenizer.vocab_size + i, "content": x, **frills} for i, x in enumerate(nasty)]
    attacked = Tokenizer.from_json(json.dumps(content))
    save_step(Path("hub"), random_model(tiny_config("llama", vocab_size=attacked.vocab_size)), attacked, {})
    show(page, "hub")
    text = json.dumps("".join(nasty[:12]))
    page.evaluate(f"(byId('prompt').value = {text}, readPrompt())")
    assert page.evaluate(f"writing.ids.some((id) => id >= {tokenizer.vocab_size})")
    page.evaluate("run(8)")
    look(page, "".join(nasty[:12]))
    page.evaluate(f"(byId('tab-words').click(), setSentence(0, {text}), compareWords())")
    assert page.evaluate("window.hacked") is None and page.evaluate(NO_ELEMENTS) == 0
    check_quiet(page)


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1920, "light")])
def test_all_fits_and_has_a_name(page: Page, trained_run: Path, width: int, scheme: str) -> None:
    show(page, trained_run, width=width, scheme=scheme)
    page.evaluate("run(20)")
    for language in ("en", "zh"):
        page.evaluate(f"(byId('language').value = '{language}', byId('language').dispatchEvent(new Event('change')))")
        for part in ("write", "words", "look"):
            page.evaluate(f"showPart('{part}')")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, part
            assert page.nameless() == [], part
    assert page.evaluate("document.documentElement.lang") == "zh"
    assert page.evaluate("byId('tab-write').textContent") == "写作"
    page.evaluate("byId('projector').click()")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    check_quiet(page)
