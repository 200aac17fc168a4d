"""The page of a model in Chromium without a network: the same ids, logits, attention and layers as in Python."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, make_text, random_model, tiny_config
from support.browser import Page
from support.pages import needs_browser

from gptlite.checkpoint import runs
from gptlite.checkpoint.saved_step import save_step
from gptlite.cli.export import html
from gptlite.report.components import packing
from gptlite.report.components.packing import pack, rounded
from gptlite.report.live import page as live
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.tokenizer_json import PATTERNS

READY = "document.body?.dataset.ready === 'true'"
SCRIPTS = (
    "Ada finds the river", "don't WE'VE I'LL it's I'M 'ſ", " 1234567 3.14", "\n\n \n", "\r\n\t", "   ", "naïve Straße",
    "ΑΒΓ", "ქართული", "русский", "العربية", "עברית", "हिन्दी", "ไทย", "天地玄黄。", "한국어",
    "🙂👩\u200d👧🇫🇷", "e\u0301",
    "\u00a0\u2028\u3000\ufeff\ufffd\x85", "<|endoftext|>", "x==y;#@", "²½Ⅷ", "\x00\x1b[0m\u200b", "\U0010ffff",
)  # fmt: skip


def strings(n: int) -> list[str]:
    """Texts of pieces of many scripts, and of characters from anywhere in Unicode."""
    rng = random.Random(0)

    def piece() -> str:
        if rng.random() < 0.5:
            text = rng.choice(SCRIPTS)
            return text[rng.randrange(len(text)) :]
        top = rng.choice((0x80, 0x250, 0x3000, 0x20000, 0x110000))
        codes = [rng.randrange(top) for _ in range(rng.randrange(1, 5))]
        return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)

    return ["".join(piece() for _ in range(rng.randrange(1, 8))) for _ in range(n)]


def show(page: Page, directory: str | Path, dtype: str = "f32", *, width: int = 1200, scheme: str = "light") -> None:
    content, _ = live.render(html.collect(runs.load(directory), "a model"), dtype)
    Path("model.html").write_text(content, encoding="utf-8")
    page.resize(width)
    page.prefer(scheme)
    page.open(Path("model.html"))
    page.wait_for(READY, 120)


def with_numbers_of(directory: str | Path, dtype: str) -> Path:
    """The model of a page: its weights are those of `directory` as numbers of `dtype`."""
    loaded = runs.load(directory)
    weights = {name: packing.rounded(name, x.float().numpy(), dtype) for name, x in loaded.model.state_dict().items()}
    loaded.model.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()})
    save_step(Path("of-page"), loaded.model, loaded.tokenizer, {})
    return Path("of-page")


def ask(page: Page, call: str, *values: Any) -> Any:
    """The answer of the worker, arrays as lists."""
    told = ", ".join(json.dumps(value) for value in (call, *values))
    plain = "(_, x) => (ArrayBuffer.isView(x) ? [...x] : x)"
    return json.loads(page.evaluate(f"remote({told}).then((x) => JSON.stringify(x, {plain}))"))


def check_quiet(page: Page) -> None:
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith("blob:")] == [Path("model.html").resolve().as_uri()]


# -- The model


@needs_browser
@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2", "transformer-2017"])
def test_logits_are_those_of_torch(page: Page, tokenizer: Tokenizer, architecture: str, dtype: str) -> None:
    grouped = {"n_heads": 4, "n_kv_heads": 2} if architecture in ("qwen3", "llama") else {}
    config = tiny_config(architecture, vocab_size=tokenizer.vocab_size + 3, **grouped)
    save_step(Path("hub"), random_model(config), tokenizer, {})
    model = runs.load(with_numbers_of("hub", dtype)).model
    show(page, "hub", dtype)
    ids = [i * 37 % tokenizer.vocab_size for i in range(config.context_length)]
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0]
    ask(page, "start", "text", ids[:9])
    for i in ids[9:20]:
        last = ask(page, "push", "text", i)["logits"]
    np.testing.assert_allclose(last, logits[19], atol=1e-3)
    read = ask(page, "start", "text", ids)["bits"]
    true = -logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0] / np.log(2)
    np.testing.assert_allclose(read[1:], true, atol=1e-3)
    check_quiet(page)


@needs_browser
def test_the_likeliest_200_tokens_are_the_same(page: Page, gptlite: Command, trained_run: Path) -> None:
    """With numbers of 16 bits, through windows that are full and read again."""
    told = ("-p", "Ada finds", "--max-tokens", "200", "--temperature", "0", "--json", "-q")
    wanted, of_page = (
        [token["id"] for token in json.loads(gptlite("generate", "-m", model, *told).out)["samples"][0]["tokens"]]
        for model in (trained_run, with_numbers_of(trained_run, "f16"))
    )
    loaded = runs.load(trained_run)
    show(page, trained_run, "f16")
    prompt = loaded.tokenizer.encode("Ada finds")
    found = page.evaluate(
        f"""(async () => {{
          const ids = [];
          await remote('start', 'text', {prompt});
          let logits = await remote('logits', 'text');
          while (ids.length < {len(wanted)}) {{
            const best = logits.reduce((at, x, i) => (x > logits[at] ? i : at), 0);
            ids.push(best);
            ({{ logits }} = await remote('push', 'text', best));
          }}
          return ids;
        }})()"""
    )
    assert found == of_page == wanted and len(wanted) > loaded.config.context_length


@needs_browser
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_attention_and_layers_are_those_of_inspect(page: Page, gptlite: Command, trained_run: Path, dtype: str) -> None:
    text = "Ada finds the river and the bank ."
    heads = ("--attention", "all", "--lens", "--explain", "2.1")
    seen = json.loads(gptlite("inspect", "-m", with_numbers_of(trained_run, dtype), text, *heads, "--json", "-q").out)
    loaded = runs.load(trained_run)
    show(page, trained_run, dtype)
    ids = [loaded.tokenizer.separator_id, *ask(page, "encode", text)["ids"]]
    bits = ask(page, "start", "text", ids)["bits"]
    assert [token["id"] for token in seen["tokens"]] == ids[1:]
    np.testing.assert_allclose(bits[1:], [token["surprisal_bits"] for token in seen["tokens"]], atol=1e-3)
    n = len(ids)
    maps = np.reshape(ask(page, "maps", "text", n), (loaded.config.n_layers, loaded.config.n_heads, -1))
    for layer, row in enumerate(seen["attention"]["weights"]):
        for head, weights in enumerate(row):
            np.testing.assert_allclose(maps[layer, head], np.concatenate(weights), atol=1e-3)
    for i, token in enumerate(seen["tokens"]):
        column = ask(page, "lens", "text", i, ids[i + 1])
        for layer, there in zip(column, token["lens"], strict=True):
            assert layer["bits"] == pytest.approx(there["surprisal_bits"], abs=1e-3)
            assert layer["p"] == pytest.approx(there["p"], abs=1e-3)
    step, there = ask(page, "step", "text", 1, 0, n - 1), seen["explain"]
    for ours, theirs in (("query", "query"), ("scaled", "scaled"), ("weights", "weights"), ("output", "output")):
        np.testing.assert_allclose(step[ours], there[theirs], atol=1e-3)
    for ours, theirs in (("keys", "key"), ("values", "value")):
        np.testing.assert_allclose(step[ours], [key[theirs] for key in there["keys"]], atol=1e-3)


# -- The tokenizer


def variant(tokenizer: Tokenizer, cut: str) -> Tokenizer:
    """The same merges, with the frills that other families have."""
    content = json.loads(tokenizer.to_json())
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": cut == "SmolLM"}
    if cut == "SmolLM":
        first: dict[str, Any] = {"type": "Digits", "individual_digits": True}
    else:
        pattern = next(regex for regex, name in PATTERNS.items() if name == cut)
        first = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, last]}
    if cut == "Qwen":
        content["normalizer"] = {"type": "NFC"}
    content["model"]["ignore_merges"] = cut == "Llama 3"
    frills = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"].append({"id": tokenizer.vocab_size, "content": "<think>", **frills})
    return Tokenizer.from_json(json.dumps(content))


@needs_browser
@pytest.mark.parametrize("cut", ["GPT-2", "Llama 3", "Qwen", "SmolLM"])
def test_ids_are_those_of_the_library(page: Page, cut: str) -> None:
    rich = Tokenizer.train([make_text(50), *SCRIPTS * 9, *strings(300)], 900)
    tokenizer = rich if cut == "GPT-2" else variant(rich, cut)
    save_step(Path("hub"), random_model(tiny_config("llama", vocab_size=tokenizer.vocab_size)), tokenizer, {})
    show(page, "hub")
    texts = [*strings(10_000 if cut == "GPT-2" else 2000), "", "a" * 3000, "x<think>y<think>", "1" * 50 + "²"]
    wanted = tokenizer.encode_batch(texts)
    for start in range(0, len(texts), 2000):
        some = json.dumps(texts[start : start + 2000])
        found = page.evaluate(f"Promise.all({some}.map((x) => remote('encode', x).then(({{ ids }}) => ids)))")
        for text, ids, right in zip(texts[start:], found, wanted[start:], strict=False):
            assert ids == right, ascii(text)
    text = "Ada’s Straße 🙂 天地"
    units = text.encode("utf-16-le")
    spans = [units[2 * a : 2 * b].decode("utf-16-le", "replace") for a, b in ask(page, "encode", text)["spans"]]
    assert [text[a:b] for a, b in tokenizer.encode_with_spans(text)[1]] == spans or cut != "GPT-2"


# -- The file


def test_two_million_parameters_fit_into_four_megabytes(trained_run: Path) -> None:
    shown = html.collect(runs.load(trained_run), "a model")
    rng = np.random.default_rng(0)
    big = {**shown.weights, "more": rng.normal(size=(1000, 1950)).astype(np.float32)}
    content, dtype = live.render(live.LiveModel(**{**vars(shown), "weights": big}))
    assert dtype == "int8" and len(content.encode()) < live.LARGEST_AUTO
    assert live.render(shown)[1] == "f16"


@needs_browser
@pytest.mark.slow
def test_two_million_parameters_open_and_write_in_time(page: Page, tokenizer: Tokenizer) -> None:
    """The shape that `--time 3m` plans on two cores. Other programs make time pass, so the fastest token counts."""
    shape = {"n_layers": 4, "n_heads": 3, "n_kv_heads": 3, "dim": 192, "context_length": 128}
    config = tiny_config("qwen3", vocab_size=2048, **shape)
    assert 1_800_000 < config.n_params < 2_500_000
    save_step(Path("hub"), random_model(config), tokenizer, {})
    for dtype in ("int8", "f16"):
        show(page, "hub", dtype)
        assert page.processor_seconds() < 2
        if dtype == "int8":
            assert Path("model.html").stat().st_size <= live.LARGEST_AUTO
        times = page.evaluate(
            """(async () => {
              await remote('start', 'text', [1, 2, 3]);
              const times = [];
              for (let i = 0; i < 90; i += 1) {
                const began = performance.now();
                await remote('push', 'text', i % 300);
                times.push(performance.now() - began);
              }
              return times;
            })()"""
        )
        assert min(times) < 1000 / 30
    check_quiet(page)


def test_numbers_keep_what_their_bits_allow() -> None:
    array = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    assert np.abs(rounded("x", array, "f16") - array).max() < 2e-3
    assert np.abs(rounded("x", array, "int8") - array).max() <= np.abs(array).max() / 254 + 1e-6
    assert np.array_equal(rounded("norm", array[0], "int8"), array[0])  # vectors keep all bits
    block = pack({"a": 1}, {"x": array, "n": np.arange(3, dtype=np.uint8)}, "int8")
    header = json.loads(block[4 : 4 + int.from_bytes(block[:4], "little")])
    assert [entry["offset"] % 4 for entry in header["arrays"]] == [0, 0]
    first = header["arrays"][0]["offset"]
    assert np.frombuffer(block, "<f4", 5, first) == pytest.approx(np.abs(array).max(1) / 127)
    with pytest.raises(OverflowError):
        pack({}, {"x": array * 1e6}, "f16")


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else(trained_run: Path) -> None:
    content, _ = live.render(html.collect(runs.load(trained_run), "</title><script>alert(1)</script>"))
    policy = content.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert (
        "unsafe" not in policy and "http" not in policy and policy.startswith("default-src 'none'; script-src 'sha256-")
    )
    assert "<script>alert" not in content


def test_scripts_are_short() -> None:
    for path in live.HERE.glob("*.*"):
        assert path.read_text(encoding="utf-8").count("\n") <= 450, path.name
