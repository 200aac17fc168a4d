"""The pages of `gptlite inspect` and `gptlite report`: their numbers, hostile text, and a browser without a network."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from support.browser import Browser, Page
from support.pages import HOSTILE, NO_ELEMENTS, Elements, banks, needs_browser, seen

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from gptlite.report import inspection, occurrences, training
from gptlite.report.inspection import Attention, Inspection
from gptlite.report.page import draw
from gptlite.report.training import Training, Writing

TEXT = ["The", " animal", " did", " not", " cross", " the", " street", ".", "\n"]
FACTS = {"model": "run </dd><script>window.hacked = 5</script>", "gptlite": "0"}


def made(pieces: list[str] = TEXT, *, n_layers: int = 2, n_heads: int = 3, head_dim: int = 8) -> Inspection:
    """Numbers that follow from the place of a token, so that a test knows them."""
    n, rng = len(pieces), np.random.default_rng(0)
    written = [piece.replace(" ", "_").replace("\n", "⏎") for piece in pieces]
    vocabulary = ["(start)", "_cat", "_dog", *dict.fromkeys(written)]
    ids = np.array([vocabulary.index(name) for name in written])
    T = min(n + 1, inspection.fitting(n_layers, n_heads, 1000))
    weights = np.tril(rng.random((n_layers, n_heads, T, T))).astype(np.float32)
    weights /= weights.sum(-1, keepdims=True)
    layers = inspection.step_layers(n_layers, 3 * n_heads * T * head_dim, 0)
    parts = rng.normal(size=(3, len(layers), n_heads, T, head_dim)).astype(np.float32)
    first = n + 1 - T
    return Inspection(
        pieces=pieces,
        ids=ids,
        separator=0,
        names=dict(enumerate(vocabulary)),
        surprisal=np.arange(n) * 1.5 % 14,
        entropy=np.full(n, 4.0),
        rank=np.arange(1, n + 1) * 7,
        top=np.stack([np.full(n, 1), ids], axis=1),
        top_p=np.tile([0.5, 0.25], (n, 1)),
        words=[(piece.strip(), i, i + 1, 1.5 * i) for i, piece in enumerate(pieces)],
        layer_bits=np.tile(np.arange(n) % 14, (n_layers + 1, 1)),
        layer_top=np.stack([ids, *[np.full(n, 2)] * n_layers])[..., None],
        layer_top_p=np.full((n_layers + 1, n, 1), 0.125),
        attention=Attention(first, weights, layers, *parts, np.zeros((len(layers), n_heads, T))),
        chosen=min(n, first + 2),
        head=(n_layers, 2),
        summary=f"{n} tokens",
        convention="A word is a word.",
        facts=FACTS,
    )


def block_of(page: str) -> dict[str, np.ndarray]:
    """The arrays of a page, as its script has them."""
    raw = gzip.decompress(base64.b64decode(page.split('id="block">')[1].split("<")[0]))
    header = json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")])
    kinds = {"f32": "<f4", "f16": "<f2", "u32": "<u4", "u8": "u1"}
    return {
        x["name"]: np.frombuffer(raw, kinds[x["kind"]], int(np.prod(x["shape"])), x["offset"]) for x in header["arrays"]
    }


def hostile() -> Inspection:
    return made([part for parts in HOSTILE for part in parts])


def run_of(n: int, *, name: str = "corpus", text: str = "Once upon a time") -> Training:
    """A run of n logged steps, each tenth with a score and a sample."""
    each = {"lr": 0.02, "tokens_per_second": 900}
    metrics: list[dict[str, Any]] = [
        {"step": 0, "elapsed": 1.5, "tokens": 0, "val_loss": 6.0, "val_bits_per_byte": 3.5}
    ]
    metrics += [
        {"step": 10 * i, "elapsed": 1.5 + i, "tokens": 640 * i, **each, "train_loss": 5 - i / n}
        | ({"val_loss": 5.0, "val_bits_per_byte": 2 + 1 / i, "sample": text} if i % 10 == 0 else {})
        for i in range(1, n + 1)
    ]
    rng = np.random.default_rng(0)
    return Training(
        name=name,
        result=f"As uncertain as a choice among 4.1 bytes {text}",
        headline=f"After 3:00 min {text}",
        metrics=metrics,
        baselines={"5-gram": 2.2, "xz": 2.5},
        expected=2.1,
        facts={"The plan": [["", "planned", "happened"], ["steps", "100", text]]},
        provenance={"The text": [[text, name]]},
        headed=frozenset({"The plan"}),
        samples=[(line["step"], str(line["sample"])) for line in metrics if "sample" in line],
        writing=Writing(text, [text], text, [["", text], [text, text]], [["", text], [text, text]]),
        words=[text, "river", "bank"],
        places=rng.normal(size=(3, 2)),
        shares=(0.4, 0.2),
        command=f"gptlite train {text}",
    )  # fmt: skip


WRITING = Writing(
    "gptlite generate -m run/step-000000300 -n 1 --seed 1 --check-copies",
    ["Once upon a time"],
    "12 % of this text stands in the training text in runs of 50 characters or more.",
    [["", "longest run", "in runs of 25+"], ["this text", "61", "40 %"]],
    [["", "characters", "stands in", "text"], ["sample 1", "61", "corpus.txt, line 3, column 1", "upon a time"]],
)


# -- What stands in them


@pytest.mark.row("S04")
def test_hostile_text_makes_no_elements() -> None:
    nasty = "".join(part for parts in HOSTILE for part in parts)
    pages = {
        "inspection": [inspection.render(x) for x in (hostile(), made(["x"] * 3 * len(HOSTILE)))],
        "training": [training.render(x) for x in (run_of(30, name=nasty, text=nasty), run_of(30))],
    }
    for attacked, tame in pages.values():
        parsed = Elements(attacked)
        assert [name for name, _ in parsed.elements] == [name for name, _ in Elements(tame).elements]
        parsed.check_attributes()


def test_the_tables_say_it_all_without_a_script() -> None:
    shown = made()
    page = inspection.render(shown)
    for name, bits, rank in zip(shown.token_names, shown.surprisal, shown.rank, strict=True):
        row = next(row for row in page.split("<tr>") if f'<bdi class="token">{name}</bdi></td>' in row)
        assert f"<td>{bits:.2f}</td>" in row and f"<td>{rank}</td>" in row
    page = training.render(run_of(30))
    for part in ("After 3:00 min", "gptlite train Once upon a time", "Step 300", "happened", "40%"):
        assert part in page


def test_attention_in_the_page_has_all_its_digits() -> None:
    """It had a byte for each weight, so that one was 16 % in one place and 17 % in another."""
    shown = made()
    weights = shown.attention.weights
    t, s = np.tril_indices(weights.shape[-1])
    assert np.array_equal(block_of(inspection.render(shown))["maps"], weights[..., t, s].ravel())


def test_pages_have_less_than_3_megabytes() -> None:
    largest = made(["token"] * inspection.MOST, n_layers=12, n_heads=12, head_dim=64)
    assert len(inspection.render(largest).encode()) < 3_000_000
    assert len(training.render(run_of(20_000)).encode()) < 3_000_000
    for n_heads in (1, 12, 400):
        n = inspection.fitting(12, n_heads, 1024)
        assert 2 <= n <= 128 and 12 * n_heads * n * (n + 1) / 2 < 1.1 * inspection.MOST_WEIGHTS
    assert inspection.step_layers(6, 40_000, 0) == range(6)
    assert inspection.step_layers(12, 100_000, 11) == range(9, 12)
    assert inspection.step_layers(12, 10_000_000, 5) == range(5, 6)
    assert inspection.alternatives(12, 1200, 100) * 13 * 1200 <= inspection.MOST_EXPECTED


def test_of_a_long_log_the_ends_and_the_best_of_it_stay() -> None:
    metrics = run_of(20_000).metrics
    kept = training.thinned(metrics)
    assert (kept[0], kept[-1]) == (metrics[0], metrics[-1]) and len(kept) <= 2 * training.MOST_POINTS
    assert training.thinned(metrics[:100]) == list(metrics[:100])


@pytest.mark.parametrize("metrics", [[], [{"step": 10, "train_loss": 4.0}]])
def test_a_run_that_has_just_begun_has_a_page(metrics: list[dict[str, float]]) -> None:
    page = training.render(Training("run", "", "It is not finished.", metrics, {}, None, {"The text": [["a", "b"]]}))
    assert "has not been scored yet" in page
    specs = json.loads(page.split('id="specs">')[1].split("</script>")[0])
    assert set(specs) == ({"loss"} if metrics else set())


# -- Charts by themselves


def drawn(shown: Inspection | Training) -> dict[str, tuple[str, bytes]]:
    module = inspection if isinstance(shown, Inspection) else training
    return {name: draw(figure) for name, figure in module.figures(shown).items()}


def words_in(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_figure_shows_what_its_page_shows() -> None:
    shown = made()
    figures = drawn(shown)
    assert set(figures) == {"surprisal", "lens", "attention-2.2"}
    labels = {f"{i} {name}" for i, name in enumerate(shown.token_names, 1)}
    for name in ("surprisal", "lens"):
        assert labels <= set(words_in(figures[name][0])), name
    guesses = words_in(figures["lens"][0])
    assert guesses.count("_dog") == 2 * len(TEXT) and guesses.count("✓ _animal") == 1
    cells = re.findall(
        r'aria-label="is asked: (\S+ \S+); asks: (\S+ \S+); weight: ([\d.]+)', figures["attention-2.2"][0]
    )
    assert len(cells) == len(shown.attended) * (len(shown.attended) + 1) / 2
    for to, of, weight in cells:
        t, s = int(of.split()[0]), int(to.split()[0])
        assert float(weight) == pytest.approx(shown.attention.weights[1, 1, t, s], abs=1e-6)
    assert set(drawn(run_of(30))) == {"bits", "loss", "lr", "speed", "map"}
    assert {"Once upon a time", "river", "bank"} <= set(words_in(drawn(run_of(30))["map"][0]))
    assert all(png.startswith(b"\x89PNG") for _, png in figures.values())


def test_of_a_long_text_a_figure_shows_what_is_around_the_chosen_token() -> None:
    shown = dataclasses.replace(made(TEXT * 30), chosen=130)
    charts = inspection.figures(shown)
    assert [token["number"] for token in charts["surprisal"].data["tokens"]] == list(range(121, 241))
    assert 130 in {cell["number"] for cell in charts["lens"].data["lens"]}


@pytest.mark.row("S04")
def test_hostile_text_is_text_in_a_figure() -> None:
    nasty = "".join(part for parts in HOSTILE for part in parts)
    for svg, _ in [*drawn(hostile()).values(), *drawn(run_of(30, name=nasty, text=nasty)).values()]:
        elements = list(ElementTree.fromstring(svg).iter())
        assert {element.tag.split("}")[1] for element in elements} <= {
            "svg", "g", "path", "text", "rect", "line", "style", "clipPath", "defs"
        }  # fmt: skip
        for element in elements:
            assert not [name for name in element.attrib if name.startswith("on") or name.endswith(("href", "src"))]


# -- In a browser


def show(page: Page, content: str, *, width: int = 1200, scheme: str = "light") -> None:
    path = Path("page.html")
    path.write_text(content, encoding="utf-8")
    page.resize(width)
    page.prefer(scheme)
    page.open(path)
    page.wait_for("document.body?.dataset.shown !== undefined && Object.keys(specs).every((id) => views[id])")


def check_quiet(page: Page) -> None:
    assert page.errors == []
    assert page.requests == [Path("page.html").resolve().as_uri()]


@needs_browser
@pytest.mark.row("S04", "S05")
@pytest.mark.parametrize("kind", ["inspection", "training"])
def test_hostile_text_is_shown_and_does_nothing(page: Page, kind: str) -> None:
    nasty = "".join(part for parts in HOSTILE for part in parts)
    show(
        page,
        inspection.render(hostile()) if kind == "inspection" else training.render(run_of(30, name=nasty, text=nasty)),
    )
    shown = page.evaluate("document.querySelector('#text, blockquote').textContent")
    expected = seen(nasty)
    assert expected[:200] in shown
    assert page.evaluate("window.hacked") is None
    assert page.evaluate(NO_ELEMENTS) == 0
    check_quiet(page)


@needs_browser
def test_arrow_keys_go_from_token_to_token(page: Page) -> None:
    shown = made()
    show(page, inspection.render(shown))
    page.evaluate("document.querySelector('#text').focus()")

    def chosen() -> list[str]:
        places = ("#chosen", "#chosen-facts", "#text [aria-selected=true]", "#grid thead [aria-selected=true]")
        return [page.evaluate(f"document.querySelector('{x}').textContent").split(" (")[0] for x in places]

    expected = "4.00 bits were expected"
    assert chosen() == ["_animal, token 2 of 9", f"1.50 bits of surprisal. {expected}", " animal", "_animal"]
    page.press("ArrowRight")
    page.wait_for("document.body.dataset.shown.startsWith('3 ')")
    assert chosen() == ["_did, token 3 of 9", f"3.00 bits of surprisal. {expected}", " did", "_did"]
    page.press("End")
    page.wait_for(f"document.body.dataset.shown.startsWith('{len(TEXT)} ')")
    assert page.evaluate("document.querySelector('#text').getAttribute('aria-activedescendant')") == f"t{len(TEXT)}"
    page.evaluate("document.querySelector('#t1').click()")
    page.wait_for("document.body.dataset.shown.startsWith('1 ')")
    assert chosen()[0] == "The, token 1 of 9"
    labels = page.evaluate("[...document.querySelectorAll('#text [role=option]')].map((x) => x.ariaLabel)")
    assert labels[1] == "2: _animal, 1.5 bits"
    check_quiet(page)


CELLS = "[...document.querySelectorAll('.weights td')].map((x) => x.textContent).filter(Boolean)"
STEP = "[...document.querySelectorAll('#step td.share')].map((x) => x.textContent).filter(Boolean)"


@needs_browser
def test_all_sections_follow_the_head_and_agree(page: Page) -> None:
    """Sections kept the layer of before, and a weight was 16 % here and 17 % there."""
    shown = made()
    show(page, inspection.render(shown))
    page.wait_for("document.body.dataset.drawn")
    before = page.evaluate("document.querySelector('#map canvas').toDataURL()")
    page.evaluate("document.querySelector('#heads [aria-checked=true]').focus()")
    page.press("ArrowUp")
    page.press("ArrowRight")
    page.wait_for("document.body.dataset.shown === '2 1.3'")
    page.wait_for(f"document.querySelector('#map canvas').toDataURL() !== {json.dumps(before)}")
    row = shown.attention.weights[0, 2, 2, :3]
    wanted = [f"{100 * w:.0f} %" if w >= 0.0995 else f"{100 * w:.1f} %" for w in row]
    assert page.evaluate(CELLS) == page.evaluate(STEP) == wanted
    best = shown.attended[int(row.argmax())]
    assert page.evaluate("byId('step-taken').textContent").startswith(f"_animal takes {best} {wanted[row.argmax()]}, ")
    heads = page.evaluate("[...document.querySelectorAll('.head-name')].map((x) => x.textContent)")
    assert len(heads) == 3 and set(heads) == {"layer 1, head 3"}
    assert "after layer 1:" in page.evaluate("byId('chosen-facts').textContent")
    page.evaluate("document.querySelector('[value=attention]').click()")
    shares = page.evaluate("options.map((x) => Number(x.style.getPropertyValue('--share')) ** 2)")
    assert shares[:2] == pytest.approx(row[1:], abs=1e-6) and not any(shares[2:])
    check_quiet(page)


@needs_browser
def test_a_token_that_goes_on_with_a_word_is_marked(page: Page) -> None:
    """ "gument" stood there as if it were a word, and a token that begins a line is none of these."""
    show(page, inspection.render(made(["The", " ar", "gument", "\n", "Is", " it", "?", "天"])))
    marked = "[...document.querySelectorAll('#grid thead .piece')].map((x) => x.textContent)"
    assert page.evaluate(marked) == ["gument"]
    table = "[...document.querySelectorAll('#table td:nth-child(2) .piece')].map((x) => x.textContent)"
    assert page.evaluate(table) == ["gument"]
    assert "broken left edge" in page.evaluate("document.querySelector('[data-label=pieceNote]').textContent")
    check_quiet(page)


@needs_browser
def test_bars_and_rows_of_charts_choose_a_token(page: Page) -> None:
    show(page, inspection.render(made()))
    page.wait_for("document.body.dataset.drawn")
    for chart, mark in (("bits", "[aria-roledescription=bar]"), ("map", "canvas")):
        page.evaluate(f"document.querySelector('#{chart}').scrollIntoView()")
        place = page.evaluate(f"document.querySelectorAll('#{chart} {mark}')[0].getBoundingClientRect().toJSON()")
        if chart == "bits":
            place = page.evaluate(f"document.querySelectorAll('#bits {mark}')[5].getBoundingClientRect().toJSON()")
            page.click_at(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
            page.wait_for("document.body.dataset.shown.startsWith('6 ')")
        else:
            at = page.evaluate(
                "(([x, y], { map }) => [x + map.scale('x')('0 (start)'), y + map.scale('y')('3 _did')])"
                "(views.map.origin(), views)"
            )
            page.click_at(place["x"] + at[0] + 4, place["y"] + at[1] + 4)
            page.wait_for("document.body.dataset.shown.startsWith('3 ')")
    check_quiet(page)


@needs_browser
def test_of_a_long_text_the_stretch_around_the_chosen_token_is_shown(page: Page) -> None:
    shown = made(TEXT * 40, n_layers=3, n_heads=4)
    first, T = shown.attention.first, len(shown.attended)
    assert first > 0 and T < 361
    show(page, inspection.render(shown))
    assert page.evaluate("[looking.from, looking.to]") == [first, first + T]
    page.evaluate("document.querySelector('#t20').click()")
    page.wait_for("document.body.dataset.shown.startsWith('20 ')")
    assert page.evaluate("[looking.from, looking.to]") == [0, 160]
    assert page.evaluate("byId('step-title').textContent") == f"The page has the attention of tokens {first} to 360."
    assert page.evaluate("document.querySelectorAll('#grid thead .chosen').length") == 1
    assert page.evaluate(CELLS) == [] and page.evaluate("byId('expected').children.length") == 2
    page.evaluate("document.querySelector('#t360').click()")
    page.wait_for("document.body.dataset.shown.startsWith('360 ')")
    assert page.evaluate("looking.from") == first and len(page.evaluate(CELLS)) == T
    check_quiet(page)


@needs_browser
def test_curves_are_drawn_over_steps_seconds_or_tokens(page: Page) -> None:
    show(page, training.render(run_of(30)))
    axis = "document.querySelector('#bits .role-axis-title text').textContent"
    assert page.evaluate(axis) == "step"
    for field, name, last in (("elapsed", "seconds", 31.5), ("tokens", "tokens read", 640 * 30), ("step", "step", 300)):
        page.evaluate(f"document.querySelector('#axes [value={field}]').click()")
        page.wait_for("document.body.dataset.shown !== undefined")
        for chart in ("bits", "loss", "lr", "speed"):
            assert page.evaluate(axis.replace("bits", chart)) == name
            assert page.evaluate(f"views['{chart}'].scale('x').domain()[1]") == pytest.approx(last, rel=0.25)
    check_quiet(page)


@needs_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_no_label_covers_another(page: Page, width: int) -> None:
    """Of baselines that are nearly the same, and of words on a map that is crowded."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(150)]
    crowded = dataclasses.replace(
        run_of(30), words=words, places=rng.normal(size=(150, 2)), expected=2.21,
        baselines={"5-gram": 2.2, "xz": 2.22, "unigram": 2.23},
    )  # fmt: skip
    show(page, training.render(crowded), width=width)
    for chart, least in (("bits", 4), ("map", 20)):
        boxes = page.evaluate(
            f"[...document.querySelectorAll('#{chart} .role-mark text')]"
            ".map((x) => x.getBoundingClientRect()).map((x) => [x.left, x.top, x.right, x.bottom])"
        )
        unique = sorted({tuple(round(x, 1) for x in box) for box in boxes})  # a label and its halo have one place
        assert len(unique) >= least
        for i, a in enumerate(unique):
            for b in unique[i + 1 :]:
                # Boxes of text are taller than its letters.
                apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 3 or b[3] <= a[1] + 3
                assert apart, (chart, a, b)
    check_quiet(page)


def test_provenance_comes_last_and_is_folded_away() -> None:
    page = training.render(run_of(30))
    order = [
        "As uncertain as",
        "How it went",
        "What it writes",
        "wrote on the way",
        "A map of",
        "The plan",
        "<pre class",
    ]
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert "<summary>The text</summary>" in page.split("<h2>Where it comes from</h2>")[1]


@needs_browser
@pytest.mark.parametrize("kind", ["inspection", "training"])
def test_each_chart_can_be_saved(browser: Browser, page: Page, kind: str, tmp_path: Path) -> None:
    show(page, inspection.render(made()) if kind == "inspection" else training.render(run_of(30)))
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    ids = page.evaluate("Object.keys(specs)")
    assert page.evaluate("[...document.querySelectorAll('.export button')].every((x) => x.ariaLabel)")
    for id in ids:
        for form in ("svg", "png"):
            page.evaluate(f"save({json.dumps(id)}, {json.dumps(form)})")
    wanted = [tmp_path / "saved" / f"{id}.{form}" for id in ids for form in ("svg", "png")]
    deadline = time.monotonic() + 30
    while not all(path.exists() and path.stat().st_size for path in wanted):
        assert time.monotonic() < deadline, [path.name for path in wanted if not path.exists()]
        time.sleep(0.05)
    for path in wanted:
        assert path.read_bytes().startswith(b"<svg" if path.suffix == ".svg" else b"\x89PNG"), path
    assert page.errors == []


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1200, "light")])
@pytest.mark.parametrize("kind", ["inspection", "training"])
def test_pages_fit_the_window_and_follow_the_reader(page: Page, kind: str, width: int, scheme: str) -> None:
    long = ["x" * 150, *TEXT * 6]
    content = inspection.render(made(long)) if kind == "inspection" else training.render(run_of(30, text="y" * 200))
    show(page, content, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    charts = "[...document.querySelectorAll('.chart svg, .chart canvas')]"
    assert page.evaluate(f"Math.max(...{charts}.map((x) => x.getBoundingClientRect().right))") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(253, 253, 252)" if scheme == "light" else "rgb(20, 24, 29)")
    check_quiet(page)


@needs_browser
@pytest.mark.parametrize("kind", ["inspection", "training", "occurrences"])
def test_all_can_be_clicked_and_has_a_name_for_those_who_listen(page: Page, kind: str) -> None:
    content = {
        "inspection": lambda: inspection.render(made()),
        "training": lambda: training.render(dataclasses.replace(run_of(30), writing=WRITING)),
        "occurrences": lambda: occurrences.render(banks()),
    }[kind]()
    show(page, content)
    assert page.nameless() == []
    assert page.click_everything() > len(page.evaluate("Object.keys(specs)"))
    page.wait_for("document.body.dataset.shown !== undefined")
    check_quiet(page)


@needs_browser
@pytest.mark.slow
def test_pages_open_within_two_seconds_of_processor_time(page: Page) -> None:
    """The largest ones."""
    for content in (
        inspection.render(made(["token "] * inspection.MOST, n_layers=12, n_heads=12, head_dim=64)),
        training.render(run_of(20_000)),
    ):
        show(page, content)
        assert page.processor_seconds() < 2
        check_quiet(page)
