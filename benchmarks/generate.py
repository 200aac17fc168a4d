"""How fast text is written: gptlite beside transformers, a plain loop and llama.cpp, the same weights, by turns.

    python benchmarks/generate.py [--rounds 3] [--threads 2] [--only NAME,NAME] [--start] [--loss RUN TEXT]

The model is a llama of 11.4 M parameters with random weights, saved as a step of gptlite, opened by transformers as it
is and by llama.cpp as GGUF. Each contender is a process of its own that reads a prompt of 16 tokens and draws 256 from
the 50 likeliest at temperature 0.8, ids only; the processes take turns, so one at a time works. What their first 32
greedy tokens are is compared too. Prints a dated Markdown table. Needs transformers, gguf and llama-cpp-python.

`--start` measures the whole command beside `import torch`, `--loss` what int8 costs in bits per byte of a text.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_PROMPT, N_NEW, N_GREEDY, TOP_K, TEMPERATURE, SAMPLES = 16, 256, 32, 50, 0.8, 16
NAMES = {
    "transformers": "transformers generate",
    "plain": "a plain PyTorch loop with a cache",
    "llama-f32": "llama.cpp F32",
    "llama-q8": "llama.cpp Q8_0",
    "eager": "gptlite, not compiled",
    "fp32": "gptlite fp32",
    "int8": "gptlite int8",
    "fp32-16": "gptlite fp32, 16 samples",
    "int8-16": "gptlite int8, 16 samples",
}
# Ours, theirs, and how many times theirs is asked for.
GOALS = (
    ("fp32", "transformers", 3.0),
    ("fp32", "llama-f32", 1.0),
    ("int8", "llama-q8", 0.8),
    ("fp32-16", "llama-f32", 3.0),
)
Write = Callable[[float, int, int], list[int]]  # temperature, seed and number of tokens to the ids of the first sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--loss", nargs=2, metavar=("RUN", "TEXT"))
    parser.add_argument("--contender", choices=[*NAMES, "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        serve(options.contender, options.model, options.threads)
    elif options.loss:
        measure_loss(*options.loss)
    else:
        with tempfile.TemporaryDirectory() as folder:
            n_bytes = make_model(Path(folder) / "model")
            if options.start:
                measure_start(Path(folder) / "model", options.rounds)
            else:
                compare(Path(folder) / "model", n_bytes, options)


def make_model(path: Path) -> int:
    """Save the model, as a step and as GGUF files beside it; the bytes of its weights."""
    import torch

    from gptlite.checkpoint import gguf, saved_step
    from gptlite.config import ModelConfig
    from gptlite.model import GPT
    from gptlite.text.tokenizer import Tokenizer

    rng = random.Random(0)
    words = ("".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(60_000))
    tokenizer = Tokenizer.train([" ".join(words)], 2048)
    config = ModelConfig.preset("llama", "medium", 2048, context_length=512)
    model = GPT(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                std = parameter.shape[1] ** -0.5
                parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
    saved_step.save_step(path, model, tokenizer, {})
    for dtype in ("f32", "q8_0"):
        gguf.export_gguf(path.with_name(f"{dtype}.gguf"), config, model.state_dict(), tokenizer, dtype=dtype)
    return 4 * config.n_params


# ------------------------------------------------------------------------------------------------- the table


def compare(model: Path, n_bytes: int, options: argparse.Namespace) -> None:
    names = options.only.split(",")
    with contextlib.ExitStack() as stack:
        processes = {name: start(name, model, options.threads) for name in [*names, "memory"]}
        for process in processes.values():
            stack.callback(process.kill)
        greedy = {name: json.loads(ask(process, "greedy")) for name, process in processes.items() if name != "memory"}
        rates: dict[str, list[float]] = {name: [] for name in processes}
        for number in range(options.rounds):
            for name in list(processes)[:: 1 if number % 2 else -1]:
                rates[name].append(float(ask(processes[name], str(number))))
    median = {name: statistics.median(values) for name, values in rates.items()}
    bandwidth = median.pop("memory")
    bound = bandwidth / n_bytes
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "llama-cpp-python")]
    print(
        f"{datetime.date.today()}, {platform.machine()}, {options.threads} threads of {os.cpu_count()} processors, "
        f"{', '.join(packages)}\n\n"
        f"llama, {n_bytes // 4:,} parameters; {N_NEW} tokens after a prompt of {N_PROMPT}, the {TOP_K} likeliest at "
        f"temperature {TEMPERATURE}; {options.rounds} rounds by turns, medians and all. Memory is read at "
        f"{bandwidth / 1e9:.1f} GB/s, so {n_bytes / 1e6:.1f} MB of fp32 weights a token allow {bound:,.0f} tokens/s "
        f"for one sample, as long as no cache holds them.\n\n"
        "| contender | tokens/s | rounds | of transformers | greedy tokens as theirs |\n|---|---|---|---|---|"
    )
    reference = "transformers" if "transformers" in names else names[0]
    for name in names:
        same = sum(a == b for a, b in zip(greedy[name], greedy[reference], strict=True))
        rounds = " ".join(f"{rate:,.0f}" for rate in rates[name])
        ratio = median[name] / median[reference]
        print(f"| {NAMES[name]} | {median[name]:,.0f} | {rounds} | {ratio:.2f} | {same} of {N_GREEDY} |")
    print("\n| | measured | goal | reached |\n|---|---|---|---|")
    for ours, theirs, goal in GOALS:
        if ours in median and theirs in median:
            ratio = median[ours] / median[theirs]
            reached = "yes" if ratio >= goal else "no"
            print(f"| {NAMES[ours]} over {NAMES[theirs]} | {ratio:.2f} | at least {goal:.1f} | {reached} |")


def start(name: str, model: Path, threads: int) -> subprocess.Popen[str]:
    """A contender's process, which has its model in memory and waits."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    environment["OMP_NUM_THREADS"] = str(threads)
    if name in ("eager", "fp32", "int8", "fp32-16", "int8-16"):
        environment["GOMP_SPINCOUNT"] = "30000"  # as the command sets it
    line = [sys.executable, __file__, "--contender", name, "--model", str(model), "--threads", str(threads)]
    process = subprocess.Popen(
        line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert ask(process, None) == "ready", f"{name} does not start"
    return process


def ask(process: subprocess.Popen[str], question: str | None) -> str:
    assert process.stdin is not None and process.stdout is not None
    if question is not None:
        process.stdin.write(f"{question}\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


# ------------------------------------------------------------------------------------------------- contenders


def serve(name: str, model: Path, threads: int) -> None:
    """Load, warm up, then answer each line with a rate: tokens a second, or bytes a second of the memory."""
    out = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere
    os.dup2(2, 1)
    prompt = [random.Random(1).randrange(1000) for _ in range(N_PROMPT)]
    if name == "memory":
        work: Any = read_memory(threads)
    else:
        makers = {"transformers": theirs, "plain": plain, "llama-f32": llama, "llama-q8": llama}
        write = makers.get(name, ours)(name, model, prompt, threads)
        write(TEMPERATURE, 0, N_NEW)
        work = write
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        if line.strip() == "greedy":
            print(json.dumps(work(0.0, 0, N_GREEDY)), file=out, flush=True)
        elif name == "memory":
            print(work(), file=out, flush=True)
        else:
            began = time.perf_counter()
            work(TEMPERATURE, int(line), N_NEW)
            seconds = time.perf_counter() - began
            print((SAMPLES if name.endswith("-16") else 1) * N_NEW / seconds, file=out, flush=True)


def ours(name: str, model: Path, prompt: list[int], threads: int) -> Write:
    import torch

    from gptlite.checkpoint import saved_step
    from gptlite.config import SamplingConfig
    from gptlite.generation.decoding import choose_decoding
    from gptlite.generation.generate import generate_ids
    from gptlite.generation.reproducible import make_sampler
    from gptlite.randomness import derive

    torch.set_num_threads(threads)
    loaded = saved_step.load(model)
    dtype, _, samples = name.partition("-")
    decoding = choose_decoding(
        loaded.model, N_NEW, dtype="int8" if dtype == "int8" else "fp32", compile="off" if name == "eager" else "on"
    )
    assert name == "eager" or decoding.packed, decoding.reason
    n = int(samples or 1)

    def write(temperature: float, seed: int, n_new: int) -> list[int]:
        config = SamplingConfig(temperature=temperature, top_k=TOP_K, top_p=1.0, min_p=0.0)
        prompts = [prompt] * n
        sampler = make_sampler(config, [derive(seed, i) for i in range(n)], prompts)
        rows = generate_ids(loaded.model, prompts, sampler, decoding=decoding)
        return [next(rows)[0] for _ in range(n_new)]

    return write


def theirs(name: str, model: Path, prompt: list[int], threads: int) -> Write:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(threads)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model).eval()
    loaded.generation_config = GenerationConfig(pad_token_id=0)
    tokens = torch.tensor([prompt])

    def write(temperature: float, seed: int, n_new: int) -> list[int]:
        torch.manual_seed(seed)
        how = {"do_sample": True, "top_k": TOP_K, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.inference_mode():
            out = loaded.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=n_new, **how)
        return out[0, len(prompt) :].tolist()

    return write


def plain(name: str, model: Path, prompt: list[int], threads: int) -> Write:
    """As one writes it by hand: the model, its cache, and a draw."""
    import torch

    from gptlite.checkpoint import saved_step
    from gptlite.kv_cache import KVCache

    torch.set_num_threads(threads)
    gpt = saved_step.load(model).model

    @torch.inference_mode()
    def write(temperature: float, seed: int, n_new: int) -> list[int]:
        torch.manual_seed(seed)
        cache, tokens, ids = KVCache(gpt.config, 1), torch.tensor([prompt]), []
        for _ in range(n_new):
            likeliest, which = gpt(tokens, cache)[0, -1].topk(TOP_K)
            draw = torch.multinomial((likeliest / temperature).softmax(-1), 1) if temperature else torch.tensor([0])
            tokens = which[draw][None]
            ids.append(int(tokens))
        return ids

    return write


def llama(name: str, model: Path, prompt: list[int], threads: int) -> Write:
    from llama_cpp import Llama

    path = model.with_name("f32.gguf" if name == "llama-f32" else "q8_0.gguf")
    loaded = Llama(str(path), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def write(temperature: float, seed: int, n_new: int) -> list[int]:
        loaded.set_seed(seed)
        rows = loaded.generate(prompt, top_k=TOP_K, top_p=1.0, min_p=0.0, temp=temperature)
        return [next(rows) for _ in range(n_new)]

    return write


def read_memory(threads: int) -> Callable[[], float]:
    """Bytes a second: the best of ten sums over a quarter of a gigabyte."""
    import torch

    torch.set_num_threads(threads)
    numbers = torch.ones(1 << 26)

    def measure() -> float:
        best = 0.0
        for _ in range(10):
            began = time.perf_counter()
            numbers.sum()
            best = max(best, 4 * len(numbers) / (time.perf_counter() - began))
        return best

    return measure


# ------------------------------------------------------------------------------------------------- the rest


def measure_start(model: Path, rounds: int) -> None:
    """The wall time of a whole command with 64 tokens, compiled (earlier) and not, and of `import torch`, by turns."""
    generate = [sys.executable, "-m", "gptlite", "generate", "-p", "X", "--max-new-tokens", "64", "-m", str(model)]
    commands = {
        "`gptlite generate -p X --max-new-tokens 64`": generate,
        "the same with `--compile off`": [*generate, "--compile", "off"],
        "`python -c 'import torch'`": [sys.executable, "-c", "import torch"],
    }
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    subprocess.run([*generate, "--compile", "on"], check=True, capture_output=True, env=environment)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    *_, torch_alone = medians.values()
    print("| the whole process | seconds | more than `import torch`; goal: at most 1.5 |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {value - torch_alone:.2f} |")


def measure_loss(run: str, text: str) -> None:
    """Bits per byte of a text by the weights as they are and by those of 8 bits."""
    import torch
    from torch import nn

    from gptlite.checkpoint import runs
    from gptlite.device import choose_hardware
    from gptlite.evaluation import scoring
    from gptlite.generation.packed import quantise
    from gptlite.text import corpus, token_files

    loaded = runs.load(run)
    ids = token_files.tokenize(corpus.open_text([text]), loaded.tokenizer).ids()
    windows = scoring.spread(scoring.sliding_windows(len(ids), loaded.config.context_length), 400)
    print("| weights | bits per byte | bytes of text |\n|---|---|---|")
    for name in ("fp32", "int8"):
        score = scoring.score_model(loaded.model, loaded.tokenizer, ids, choose_hardware("cpu"), windows)
        print(f"| {name} | {score.bits_per_byte:.5f} | {score.bytes:,} |", flush=True)
        with torch.no_grad():
            for module in loaded.model.modules():
                if isinstance(module, nn.Linear):
                    numbers, scale = quantise(module.weight)
                    module.weight = nn.Parameter(numbers * scale[:, None])


if __name__ == "__main__":
    main()
