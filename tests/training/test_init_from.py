"""Runs that begin with a trained model or with its tokenizer: what they take, what they leave, what they refuse."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from support.foreign import THEIRS, save, shake, their_gpt2

from gptlite.checkpoint import runs, saved_step
from gptlite.errors import Interrupted, UsageError
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import pipeline
from gptlite.training.init_from import copy_weights, load_init_from
from gptlite.training.watcher import Watcher

NOUNS = ("mountain", "winter", "question", "answer")


def other_text(n_lines: int = 300) -> str:
    """Like the text of the trained run, with words that it has never seen."""
    rng = np.random.default_rng(1)
    lines = (f"Ada asks the {rng.choice(NOUNS)} and the {rng.choice(NOUNS)} ." for _ in range(n_lines))
    return "\n".join(lines) + "\n"


@pytest.fixture
def other_file(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text(other_text())
    return path


class Notes(Watcher):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def weights(path: Path | str) -> dict[str, torch.Tensor]:
    return saved_step.load(runs.find_model(str(path))).model.state_dict()


def test_a_model_learns_a_new_text_and_starts_from_what_it_knew(
    trained_run: Path, other_file: Path, corpus_file: Path
) -> None:
    base = saved_step.load(runs.find_model(str(trained_run)))
    notes = Notes()
    result = pipeline.train(str(other_file), out="fine", init_from=trained_run, steps=40, watcher=notes)
    (before,) = [n for n in notes.notices if n.startswith("before training")]
    assert result["val_bits_per_byte"] < float(before.split()[-4]) - 0.2
    fine = saved_step.load(runs.find_model("fine"))
    assert fine.config == base.config
    assert fine.tokenizer.digest == base.tokenizer.digest
    info = json.loads(Path("fine/run.json").read_text())
    assert info["plan"]["train"]["init"] == "model"
    assert info["plan"]["train"]["lr"] == pytest.approx(0.1 * 0.02)
    digest = hashlib.sha256((base.path / "model.safetensors").read_bytes()).hexdigest()
    assert info["init_from"] == {
        "path": str(base.path), "architecture": "qwen3", "n_parameters": base.config.n_params, "sha256": digest,
    }  # fmt: skip
    assert info["expected"]["bits_per_byte"] is None, "nobody can tell"


def test_the_first_step_is_one_from_the_given_weights(trained_run: Path, other_file: Path) -> None:
    """With a rate of nearly nothing, the weights are nearly those of the origin."""
    pipeline.train(str(other_file), out="still", init_from=trained_run, steps=1, lr=1e-9)
    before, after = weights(trained_run), weights("still")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.allclose(tensor, after[name], atol=1e-6), name


@pytest.mark.hf
@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_models_of_others_go_on_and_open_everywhere(
    name: str, tokenizer: Tokenizer, other_file: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save(THEIRS[name][1](), tokenizer, tmp_path / "theirs", torch.bfloat16)
    with torch.enable_grad():
        result = pipeline.train(
            str(other_file), out="fine", init_from=folder, steps=3, batch_size=4, save_every=9, eval_every=9
        )
    assert result["n_parameters"] == saved_step.load(folder).config.n_params
    best = runs.find_model("fine")
    tokens = torch.tensor([tokenizer.encode("Ada asks the mountain")])
    theirs = AutoModelForCausalLM.from_pretrained(best).eval()
    assert torch.allclose(theirs(tokens).logits, saved_step.load(best).model(tokens), atol=1e-4)
    assert AutoTokenizer.from_pretrained(best)("Ada asks")["input_ids"] == tokenizer.encode("Ada asks")


def test_a_shorter_context_leaves_the_first_positions(tokenizer: Tokenizer, other_file: Path, tmp_path: Path) -> None:
    folder = save(shake(their_gpt2()), tokenizer, tmp_path / "theirs")
    pipeline.train(str(other_file), out="fine", init_from=folder, steps=1, lr=1e-9, context_length=16)
    before, after = weights(folder), weights("fine")
    name = "transformer.position.table"
    assert after[name].shape == (16, 32)
    assert torch.allclose(before[name][:16], after[name], atol=1e-6)


def test_weights_are_copied_not_shared(trained_run: Path) -> None:
    origin = saved_step.load(runs.find_model(str(trained_run)))
    model = GPT(origin.config)
    copy_weights(model, origin.model)
    with torch.no_grad():
        model.head.weight.zero_()
    assert origin.model.head.weight.abs().sum() > 0


def test_an_interrupted_run_goes_on_without_its_origin(trained_run: Path, other_file: Path) -> None:
    shutil.copytree(trained_run, "origin", symlinks=True)
    settings = {"init_from": "origin", "steps": 12, "save_every": 4, "batch_size": 4, "threads": 1}
    pipeline.train(str(other_file), out="straight", **settings)

    class Stop(Watcher):
        def __init__(self) -> None:
            self.steps = 0

        def stepped(self, progress: Any) -> None:
            self.steps = progress.step

    watcher = Stop()
    with pytest.raises(Interrupted):
        pipeline.train(
            str(other_file),
            out="cut",
            watcher=watcher,
            should_stop=lambda: 2 if watcher.steps == 6 else None,
            **settings,
        )
    shutil.rmtree("origin")
    pipeline.train(str(other_file), out="cut", resume=True)
    straight, cut = weights("straight/latest"), weights("cut/latest")
    assert all(torch.equal(tensor, cut[name]) for name, tensor in straight.items())
    assert json.loads(Path("cut/run.json").read_text())["init_from"]["architecture"] == "qwen3"


def test_a_tokenizer_serves_again(trained_run: Path, other_file: Path, tmp_path: Path) -> None:
    known = saved_step.load(runs.find_model(str(trained_run))).tokenizer
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/tokenizer.json").write_text(known.to_json())
    shape = {"n_layers": 1, "dim": 32, "n_heads": 1, "context_length": 32, "steps": 1}
    for name, where in (("run", trained_run), ("step", trained_run / "best"), ("alone", tmp_path / "alone")):
        pipeline.train(str(other_file), out=f"new-{name}", tokenizer=where, **shape)
        assert saved_step.load(runs.find_model(f"new-{name}")).tokenizer.digest == known.digest
        taken = json.loads(Path(f"new-{name}", "run.json").read_text())["tokenizer_from"]
        assert taken["sha256"] == known.digest
        assert Path(taken["path"], "tokenizer.json").exists()


@pytest.fixture
def other_tokenizer(tmp_path: Path) -> Path:
    (tmp_path / "others").mkdir()
    (tmp_path / "others/tokenizer.json").write_text(Tokenizer.train([other_text()], 320).to_json())
    return tmp_path / "others"


def test_a_tokenizer_that_transformers_saved_again_is_the_same(trained_run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    step = runs.find_model(str(trained_run))
    transformers.AutoTokenizer.from_pretrained(step).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").read_bytes() != (step / "tokenizer.json").read_bytes()
    origin = load_init_from(trained_run, tmp_path / "again")
    assert origin.model is not None and origin.tokenizer is origin.model.tokenizer


def test_a_tokenizer_must_be_that_of_the_model(trained_run: Path, other_tokenizer: Path) -> None:
    with pytest.raises(UsageError, match=r"is not that of the model of `init_from`"):
        load_init_from(trained_run, other_tokenizer)
    origin = load_init_from(trained_run, trained_run / "best")
    assert origin.model is not None and origin.tokenizer is not None
    assert origin.tokenizer.digest == origin.model.tokenizer.digest


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--arch", "llama"), 2, "has its own shape; leave --arch out"),
        (("--size", "tiny"), 2, "has its own shape; leave --size out"),
        (("--layers", "2"), 2, "has its own shape; leave --layers out"),
        (("--dim", "32"), 2, "has its own shape; leave --dim out"),
        (("--heads", "2"), 2, "has its own shape; leave --heads out"),
        (("--vocab-size", "400"), 2, "--init-from brings its own vocabulary; leave --vocab-size out"),
        (("--init", "bigrams"), 2, "--init bigrams is for a new model"),
        (("--context", "33"), 2, "--context 33: the model of --init-from sees at most 32 tokens"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_the_origin_decides_is_not_for_options(
    gptlite: Command, trained_run: Path, corpus_file: Path, options: tuple[str, ...], code: int, named: str
) -> None:
    outcome = gptlite("train", corpus_file, "--init-from", trained_run, "--steps", "1", *options)
    assert (outcome.code, outcome.out) == (code, "")
    assert named in outcome.err
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--init-from", "nowhere"), 4, "there is no model at nowhere"),
        (("--tokenizer", "nowhere"), 4, "there is no model at nowhere"),
        (("--tokenizer", "RUN", "--vocab-size", "500"), 2, "--tokenizer brings its own vocabulary"),
        (("--init", "model"), 2, "to start from a trained model, name it with --init-from"),
        (("--resume", "--init-from", "RUN"), 2, "and the run was started without it"),
        (("--resume", "--tokenizer", "RUN"), 2, "--tokenizer is "),
    ],
    ids=str,
)
def test_origins_that_make_no_sense(
    gptlite: Command, trained_run: Path, arguments: tuple[str, ...], code: int, named: str
) -> None:
    shutil.copytree(trained_run, "run", symlinks=True)
    line = [str(trained_run) if a == "RUN" else a for a in arguments]
    place = ("-o", "run") if "--resume" in line else ()
    outcome = gptlite("train", trained_run.parent / "corpus.txt", "--steps", "1", *place, *line)
    assert (outcome.code, outcome.out) == (code, "")
    assert named in outcome.err


def test_a_dry_run_shows_the_shape_of_the_origin(gptlite: Command, trained_run: Path, corpus_file: Path) -> None:
    outcome = gptlite("train", corpus_file, "--init-from", trained_run, "--steps", "5", "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    plan = json.loads(outcome.out)["plan"]
    assert plan["model"] == saved_step.load(runs.find_model(str(trained_run))).config.to_dict()
    assert plan["train"]["init"] == "model"


def test_info_says_what_a_run_began_with(gptlite: Command, trained_run: Path, other_file: Path) -> None:
    assert gptlite("train", other_file, "--init-from", trained_run, "--steps", "1", "-o", "fine", "-q").code == 0
    shown = " ".join(gptlite("info", "fine").out.split())
    assert f"begun with {runs.find_model(str(trained_run))} (qwen3), sha256" in shown


def test_a_model_that_reads_far_is_trained_on_shorter_windows() -> None:
    from gptlite.config import ModelConfig
    from gptlite.device import choose_hardware
    from gptlite.training.plan import Facts, make_plan

    base = ModelConfig.preset("llama", "tiny", 50_000, context_length=131_072)
    facts = Facts(10**8, 2 * 10**7, 50_000, choose_hardware("cpu", "fp32"))
    plan = make_plan(facts, overrides={"steps": 10}, base=base)
    assert plan.model.context_length == 1024
    assert any("131,072" in reason.sentence() and reason.about == "context_length" for reason in plan.reasons)
    longer = make_plan(facts, overrides={"steps": 10, "context_length": 4096}, base=base)
    assert longer.model.context_length == 4096
