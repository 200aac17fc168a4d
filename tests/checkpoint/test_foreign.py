"""Models that transformers saved: of every family and in every form they are evaluated, continued and described."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, make_text
from support.foreign import THEIRS, save, shake, their_gpt2, their_llama, their_qwen3, tokenizer_of_characters

from gptlite.checkpoint import saved_step
from gptlite.text.tokenizer import Tokenizer

pytestmark = pytest.mark.hf
TEXT = make_text(40, seed=5)
FORMS = {
    "fp32": (torch.float32, {}),
    "fp32-sharded": (torch.float32, {"max_shard_size": "20KB"}),
    "bf16": (torch.bfloat16, {}),
    "bf16-sharded": (torch.bfloat16, {"max_shard_size": "20KB"}),
    "fp16-sharded": (torch.float16, {"max_shard_size": "20KB"}),
}


@torch.no_grad()
def bits_per_byte_in_transformers(folder: Path, text: str, context: int = 32) -> float:
    """Each token from at least half a context, by nothing but transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]])
    nats, done = 0.0, 1
    while done < len(ids):
        end = min(len(ids), context + 1 if done == 1 else done + context // 2)
        window = ids[max(0, end - context - 1) : end]
        losses = torch.nn.functional.cross_entropy(model(window[None, :-1]).logits[0], window[1:], reduction="none")
        nats += float(losses[-(end - done) :].sum())
        done = end
    return nats / math.log(2) / len(text.encode())


# Each family in fp32, and each form once: a form is read tensor by tensor, whatever the family.
SOME = {*((name, "fp32") for name in THEIRS), ("llama", "fp32-sharded"), ("qwen3-tied", "bf16-sharded")}
SOME |= {("openai-gpt", "bf16")}


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(*case, marks=() if case in SOME else pytest.mark.slow, id="-".join(case))
        for case in itertools.product(THEIRS, FORMS)
    ],
)
def test_eval_is_what_transformers_computes(
    gptlite: Command, tokenizer: Tokenizer, tmp_path: Path, name: str, form: str
) -> None:
    dtype, options = FORMS[form]
    folder = save(THEIRS[name][1](), tokenizer, tmp_path / "theirs", dtype, **options)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == ("sharded" in form)
    Path("text.txt").write_text(TEXT)
    outcome = gptlite("eval", "text.txt", "-m", folder, "--json")
    assert outcome.code == 0, outcome.err
    # Embeddings and head of 2017 are one table, and two in such a file: in half precision each is rounded by itself.
    tolerance = 1e-2 if name == "openai-gpt" and dtype != torch.float32 else 1e-4
    expected = bits_per_byte_in_transformers(folder, TEXT)
    assert json.loads(outcome.out)["bits_per_byte"] == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", THEIRS)
def test_every_command_knows_them(gptlite: Command, tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    folder = save(THEIRS[name][1](), tokenizer, tmp_path / "theirs")
    written = gptlite("generate", "Ada finds", "-m", folder, "--max-new-tokens", "5", "--seed", "1", "--json")
    assert written.code == 0, written.err
    assert json.loads(written.out)["samples"][0]["finish_reason"] in ("length", "stop")
    compared = gptlite("embed", "Ada finds the [river]", "Bela paints the [river]", "-m", folder, "--json")
    assert compared.code == 0, compared.err
    assert gptlite("words", "nearest", "river", "-m", folder, "-q").code == 0


def test_info_describes_them(gptlite: Command, tokenizer: Tokenizer, tmp_path: Path) -> None:
    options = {"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}
    options["rope_parameters"] |= {"rope_theta": 500_000.0}
    theirs = shake(their_llama(num_key_value_heads=2, **options))
    folder = save(theirs, tokenizer, tmp_path / "theirs", torch.bfloat16, max_shard_size="20KB")
    n_files = len(list(folder.glob("*.safetensors")))
    shown = gptlite("info", folder)
    assert (shown.code, shown.err) == (0, "")
    for part in (
        "llama", "LlamaForCausalLM", f"{sum(p.numel() for p in theirs.parameters()):,}", f"{n_files} files", "bfloat16",
        "2, 32, 40", "4, 2, 8", "4,096 tokens", "330 tokens, 10 of them unused", "text cut as GPT-2 does",
        "<|endoftext|> before each document", "theta 500,000, scaled as linear for 4 times 4,096 tokens",
        "elsewhere, with transformers",
    ):  # fmt: skip
        assert part in " ".join(shown.out.split()), part
    facts = json.loads(gptlite("info", folder, "--json").out)
    assert facts["weights"]["dtypes"] == ["BF16"] and len(facts["weights"]["files"]) == n_files
    assert facts["source"]["model_type"] == "llama"
    assert (facts["run"], facts["manifest"]) == (None, {})
    state = saved_step.load(folder).model.state_dict()
    assert facts["tensors"] == {name: list(tensor.shape) for name, tensor in state.items()}


def test_info_reads_no_weights_of_others(gptlite: Command, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A model of many gigabytes is described at once."""
    folder = save(shake(their_qwen3()), tokenizer, tmp_path / "theirs")
    size = (folder / "model.safetensors").stat().st_size
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(size - 4)
        file.write(b"\xff\xff\xff\x7f")  # not a number
    assert gptlite("info", folder, "--json").code == 0
    assert gptlite("generate", "-m", folder).code == 4


def test_a_model_in_the_cache_of_hugging_face_has_a_name(
    gptlite: Command, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """There its folder says which snapshot is meant; snapshots are named by hashes."""
    cached = tmp_path / "models--ada--river"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0123456789abcdef0123456789abcdef01234567")
    assert gptlite("info", cached).code == 4
    folder = save(shake(their_gpt2()), tokenizer, cached / "snapshots/0123456789abcdef0123456789abcdef01234567")
    assert json.loads(gptlite("info", cached, "--json").out)["path"] == str(folder)
    (cached / "refs/main").write_text("../../../snapshots")
    assert gptlite("info", cached).code == 4


def test_a_model_stops_at_any_of_its_ends(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Its config names a second token that ends a text."""
    from gptlite.config import SamplingConfig
    from gptlite.generation.generate import generate

    content = json.loads(tokenizer.to_json())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"].append({"id": tokenizer.vocab_size, "content": "<|eot|>", **flags})
    theirs = shake(their_gpt2(eos_token_id=[0, tokenizer.vocab_size], tie_word_embeddings=False))
    with torch.no_grad():  # whatever stands before, this is what comes next
        theirs.transformer.ln_f.weight.zero_()
        theirs.transformer.ln_f.bias.copy_(theirs.lm_head.weight[tokenizer.vocab_size])
        theirs.lm_head.weight[tokenizer.vocab_size] *= 10
    folder = save(theirs, tokenizer, tmp_path / "theirs")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    loaded = saved_step.load(folder)
    (sample,) = generate(
        loaded.model, loaded.tokenizer, "Ada", SamplingConfig(temperature=0.0, max_new_tokens=9), seed=0
    )
    assert (sample.tokens, sample.finish_reason) == ([], "stop")


def test_a_tokenizer_of_characters_serves_every_command(gptlite: Command, tmp_path: Path) -> None:
    """As Llama 2 has it: evaluated like anywhere, but for the space that is thought before each document."""
    content = tokenizer_of_characters(TEXT)
    theirs = shake(their_llama(vocab_size=len(content["model"]["vocab"])))
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs/tokenizer.json").write_text(json.dumps(content))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "theirs/tokenizer_config.json").write_text(json.dumps(settings))
    Path("text.txt").write_text(TEXT)
    evaluated = json.loads(gptlite("eval", "text.txt", "-m", "theirs", "--json").out)
    expected = bits_per_byte_in_transformers(tmp_path / "theirs", TEXT)
    assert evaluated["n_bytes"] == len(TEXT.encode()), "the space that is thought before a text is none of its bytes"
    # A long text is tokenized in pieces, cut where byte-level BPE would cut; tokens that reach across become two.
    assert evaluated["bits_per_byte"] == pytest.approx(expected, rel=0.02)
    assert gptlite("generate", "Ada", "-m", "theirs", "--max-new-tokens", "3").code == 0
    assert gptlite("embed", "Ada finds the [river]", "the [river]", "-m", "theirs").code == 0
    Path("more.txt").write_text(make_text(100))
    fine = gptlite("train", "more.txt", "--init-from", "theirs", "--steps", "2", "--batch-size", "4", "-o", "fine")
    assert fine.code == 0, fine.err
    assert gptlite("eval", "text.txt", "-m", "fine").code == 0
    exported = gptlite("export", "theirs")
    assert exported.code == 2
    assert "has no name for how this tokenizer cuts text (Llama 2)" in exported.err


@pytest.mark.row("K26")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_with_a_way_out(gptlite: Command, tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    folder = save(shake(their_gpt2()), tokenizer, tmp_path / "theirs")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04.")
    for command in (("generate",), ("info",), ("eval", "text.txt")):
        Path("text.txt").write_text(TEXT)
        outcome = gptlite(*command, *(("-m",) if command != ("info",) else ()), folder)
        assert outcome.code == 4
        assert f"({name}), which can run code and is never opened" in outcome.err
        assert f'AutoModelForCausalLM.from_pretrained("{folder}").save_pretrained("NEW DIRECTORY")' in outcome.err


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.model"])
def test_older_tokenizer_files_are_refused_with_a_way_out(
    gptlite: Command, tokenizer: Tokenizer, tmp_path: Path, name: str
) -> None:
    folder = save(shake(their_gpt2()), tokenizer, tmp_path / "theirs")
    (folder / "tokenizer.json").rename(folder / name)
    outcome = gptlite("generate", "-m", folder)
    assert outcome.code == 4
    assert f"has {name} but no tokenizer.json; let transformers make one: AutoTokenizer" in outcome.err


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: their_llama(attention_bias=True), "'attention_bias' is True"),
        (lambda: their_gpt2(scale_attn_by_inverse_layer_idx=True), "'scale_attn_by_inverse_layer_idx' is True"),
        (lambda: their_gpt2(activation_function="relu"), "'activation_function' is 'relu'"),
        (lambda: their_qwen3(use_sliding_window=True), "'use_sliding_window' is True"),
    ],
    ids=["attention_bias", "layer scale", "activation", "sliding window"],
)
def test_what_cannot_be_computed_is_named(
    gptlite: Command, tokenizer: Tokenizer, tmp_path: Path, make: Callable[[], Any], named: str
) -> None:
    folder = save(make(), tokenizer, tmp_path / "theirs")
    outcome = gptlite("generate", "-m", folder)
    assert (outcome.code, outcome.out) == (4, "")
    assert named in outcome.err and "config.json" in outcome.err
