"""gptlite on one GPU: speed of its training step beside `transformers`, memory beside the plan's, a run by the clock.

    python benchmarks/gpu.py --out results.jsonl --text corpus.txt            # all parts, the important ones first
    python benchmarks/gpu.py --out results.jsonl --parts machine,step-124M    # some of them
    python benchmarks/gpu.py --out results.jsonl --device cpu --smoke         # does this script work at all?

Each part runs in a process of its own with a time-out and appends lines of JSON to `--out`; one that fails appends what
it said last, and the others go on.

- `machine`: the card, the versions, and how fast it multiplies matrices in bf16, TF32 and fp32.
- `step-...`: tokens a second of a training step, by turns in one process: gptlite with Muon and with AdamW, as it is
  and compiled, and the same architecture in `transformers` with torch's AdamW and the same loss. MFU is 6 operations a
  parameter and token over the peak of the card; beside it over the rate of a large bf16 product in the same process.
- `orthogonal`: Muon's orthogonalisation in several precisions: seconds, and how far singular values are from 1.
- `memory`: what a step allocates at most, beside the formula of the plan.
- `ladder`: every rung of the planner's ladder, timed as the planner times it.
- `train-...`: the command with a time budget, its caches empty: does it land, and where.
- `muon`: the same short run with Muon's products as they are (TF32 on a GPU) and in bf16: do the scores differ?
- `generate`: tokens a second of the eager decoder here and on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlite.checkpoint.hf import to_hf_config
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, choose_hardware
from gptlite.generation.decoding import EagerDecoder
from gptlite.model import GPT, initialise
from gptlite.training import compile, plan
from gptlite.training import muon as orthogonal_momentum
from gptlite.training import optimizer as optim
from gptlite.training.memory import training_memory
from gptlite.training.speed import measure_speed

Facts = dict[str, Any]

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "4090": 165e12}  # bf16, dense, by the data sheets
STEPS, ROUNDS = 8, 3

# Architecture, layers, width, heads, context, vocabulary, windows a step.
SHAPES: dict[str, tuple[str, int, int, int, int, int, int]] = {
    "10M": ("qwen3", 6, 384, 6, 1024, 4096, 32),
    "124M": ("gpt2", 12, 768, 12, 1024, 50257, 16),
    "qwen3-124M": ("qwen3", 12, 768, 12, 1024, 32768, 16),
    "350M": ("qwen3", 24, 1024, 16, 1024, 32768, 16),
    "smoke": ("qwen3", 2, 32, 2, 32, 300, 4),
}

# In the order of their importance, with the seconds that each may take.
PARTS: dict[str, float] = {
    "machine": 60, "step-124M-bf16": 150, "orthogonal": 60, "train-60s": 110, "step-qwen3-124M-bf16": 120,
    "memory": 70, "ladder": 60, "step-350M-bf16": 150, "step-10M-bf16": 100, "generate": 60,
    "train-60s-compiled": 110, "muon": 120, "step-124M-fp32": 100,
}  # fmt: skip
SMOKE = ("machine", "step-smoke-fp32", "orthogonal", "memory", "ladder", "train-4s", "muon", "generate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="everything tiny")
    parser.add_argument("--parts", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no further part begins")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        for facts in run_part(options.part, options):
            print(json.dumps(facts), flush=True)
        return
    began = time.monotonic()
    for part in options.parts.split(",") if options.parts else SMOKE if options.smoke else PARTS:
        left = options.seconds - (time.monotonic() - began)
        if left < 15:
            append(options.out, part, {"left_out": "no time was left"})
            continue
        most = PARTS.get(part, 120.0) if options.device == "cuda" else 600.0
        start_part(part, options, min(most, left))


def start_part(part: str, options: argparse.Namespace, seconds: float) -> None:
    """Run a part in a process of its own and append what it prints, line by line, as it comes."""
    command = [sys.executable, __file__, "--part", part, "--out", str(options.out), "--device", options.device]
    command += ["--text", str(options.text)] if options.text else []
    command += ["--smoke"] if options.smoke else []
    began = time.monotonic()
    print(f"== {part}", flush=True)
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True)
        code: int | str
        lines: list[str] = []
        try:
            out, _ = process.communicate(timeout=seconds)
            lines, code = out.splitlines(), process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, _ = process.communicate()
            lines, code = out.splitlines(), f"stopped after {seconds:.0f} s"
        for line in lines:
            try:
                append(options.out, part, json.loads(line))
            except json.JSONDecodeError:
                append(options.out, part, {"said": line})
        said.seek(0)
        ending = [line for line in said.read().splitlines() if line.strip()][-12:]
    took = {"seconds": round(time.monotonic() - began, 1)}
    append(options.out, part, took if code == 0 else {**took, "failed": code, "error": ending})


def append(path: Path, part: str, facts: Facts) -> None:
    line = json.dumps({"part": part, **facts})
    print(line, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def run_part(part: str, options: argparse.Namespace) -> Iterator[Facts]:
    name, _, rest = part.partition("-")
    if name == "machine":
        yield machine(options)
    elif name == "step":
        shape, _, dtype = rest.rpartition("-")
        yield from steps(shape, dtype, options)
    elif name == "orthogonal":
        yield from orthogonal(options)
    elif name == "memory":
        yield from memory(options)
    elif name == "ladder":
        yield from ladder(options)
    elif name == "train":
        yield train(rest, options)
    elif name == "muon":
        yield from muon(options)
    elif name == "generate":
        yield from generate(options)
    else:
        raise SystemExit(f"there is no part '{part}': choose from {', '.join(PARTS)}.")


# ------------------------------------------------------------------------------------------- the card and its clock


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], object], device: torch.device, times: int, warm_up: int = 2) -> float:
    """Median seconds of `work`."""
    for _ in range(warm_up):
        work()
    seconds = []
    for _ in range(times):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def product_rate(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Operations a second of a square matrix product."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / timed(lambda: a @ b, device, times=10)


def peak_of(device: torch.device) -> float | None:
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    return next((rate for card, rate in PEAK.items() if card in name), None)


def machine(options: argparse.Namespace) -> Facts:
    import importlib.metadata
    import platform

    device = choose_hardware(options.device).device
    packages = ("torch", "triton", "transformers", "tokenizers", "safetensors", "numpy", "typer", "rich")
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not there"
    n = 256 if options.smoke else 8192
    facts: Facts = {"versions": versions, "described": choose_hardware(options.device).describe()}
    facts["bf16_products"] = product_rate(device, torch.bfloat16, n)
    facts["fp32_products"] = product_rate(device, torch.float32, n // 2)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"card": properties.name, "capability": torch.cuda.get_device_capability(), "peak": peak_of(device)}
        facts["memory"] = properties.total_memory
        with choose_hardware(options.device, "bf16").rough_products():
            facts["tf32_products"] = product_rate(device, torch.float32, n)
    return facts


# ------------------------------------------------------------------------------------------------- training steps


def shape_of(name: str) -> tuple[ModelConfig, int]:
    """The shape, and windows a step."""
    architecture, n_layers, dim, n_heads, context, vocab_size, windows = SHAPES[name]
    overrides: Facts = {"n_layers": n_layers, "dim": dim, "n_heads": n_heads, "context_length": context}
    return ModelConfig.preset(architecture, "small", vocab_size, **overrides), windows


class Contender:
    """A model, its optimizers and its loss, taken together as a training step on given windows."""

    def __init__(self, kind: str, shape: ModelConfig, windows: int, hardware: Hardware) -> None:
        self.kind, self.hardware = kind, hardware
        self.config = TrainConfig(batch_size=windows, optimizer="muon" if "muon" in kind else "adamw")
        cuda = hardware.device.type == "cuda"
        self.before = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        torch.manual_seed(0)
        self.loss_of: Callable[[Any, Tensor], Tensor] = optim.mean_loss
        began = time.monotonic()
        if kind.startswith("gptlite"):
            model = GPT(shape)
            initialise(model, seed=0)
            self.model: nn.Module = model.to(hardware.device).train()
            self.optimizers = optim.make_optimizers(model, self.config)
            optim.set_learning_rate(self.optimizers, 1e-4)
            if "bf16" in kind:
                for optimizer in self.optimizers:
                    optimizer.step = in_context(hardware.autocast, optimizer.step)  # type: ignore[method-assign]
            if "compiled" in kind:
                self.loss_of = compile.compile_with_torch(model, self.config, hardware)
        else:
            self.model = their_model(shape).to(hardware.device).train()
            self.optimizers = [torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)]
            self.loss_of = torch.compile(their_loss, dynamic=False) if "compiled" in kind else their_loss
        batch = torch.randint(shape.vocab_size, (windows, shape.context_length + 1))
        self.step(batch)
        synchronise(hardware.device)
        self.ready_seconds = time.monotonic() - began  # compiling, and the first step
        for _ in range(2):
            self.step(batch)
        self.peak = torch.cuda.max_memory_allocated() - self.before if cuda else None

    def step(self, batch: Tensor) -> None:
        optim.training_step(self.model, self.optimizers, batch, self.hardware, 1.0, self.loss_of)  # type: ignore[arg-type]


def in_context(context: Callable[[], Any], work: Callable[..., Any]) -> Callable[..., Any]:
    def inside(*arguments: Any) -> Any:
        with context():
            return work(*arguments)

    return inside


def their_model(shape: ModelConfig) -> nn.Module:
    """The same architecture in `transformers`, with weights of its own."""
    import transformers

    theirs = {name: value for name, value in to_hf_config(shape, 0).items() if name != "transformers_version"}
    config = transformers.AutoConfig.for_model(theirs.pop("model_type"), **theirs)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float()


def their_loss(model: Any, batch: Tensor) -> Tensor:
    logits = model(input_ids=batch[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())


def steps(name: str, dtype: str, options: argparse.Namespace) -> Iterator[Facts]:
    """Tokens a second of all contenders, by turns; one that fails is said and left out."""
    hardware = choose_hardware(options.device, dtype, compile="off")
    shape, windows = shape_of(name)
    rate = product_rate(hardware.device, torch.bfloat16, 256 if options.smoke else 8192)
    peak = peak_of(hardware.device)
    kinds = ["gptlite muon compiled", "gptlite muon", "transformers adamw compiled", "gptlite adamw compiled"]
    if options.smoke:
        kinds = [kind for kind in kinds if "compiled" not in kind] + ["transformers adamw"]
    elif dtype == "bf16":  # with the orthogonalisation in bf16 too
        kinds += ["gptlite muon compiled, all bf16", "transformers adamw"]
    contenders: list[Contender] = []
    for kind in kinds:
        try:
            contender = Contender(kind, shape, windows, hardware)
            contenders.append(contender)
            ready = {"ready_seconds": round(contender.ready_seconds, 1), "peak_memory": contender.peak}
            batch = torch.randint(shape.vocab_size, (windows, shape.context_length + 1))
            seconds_alone = timed(lambda c=contender, b=batch: c.step(b), hardware.device, times=5)
            yield {"ready": kind, "dtype": dtype, "seconds_per_step": seconds_alone, **ready}
        except Exception as error:
            yield {"contender": kind, "failed": f"{type(error).__name__}: {str(error)[:300]}"}
    generator = torch.Generator().manual_seed(1)
    batches = [
        torch.randint(shape.vocab_size, (windows, shape.context_length + 1), generator=generator) for _ in range(STEPS)
    ]
    seconds: dict[str, list[float]] = {c.kind: [] for c in contenders}
    for _ in range(ROUNDS):
        for contender in contenders:
            synchronise(hardware.device)
            began = time.perf_counter()
            for batch in batches:
                contender.step(batch)
            synchronise(hardware.device)
            seconds[contender.kind].append((time.perf_counter() - began) / len(batches))
    for contender in contenders:
        per_step = statistics.median(seconds[contender.kind])
        tokens = windows * shape.context_length / per_step
        parameters = sum(p.numel() for p in contender.model.parameters())
        yield {
            "contender": contender.kind,
            "dtype": dtype,
            "parameters": parameters,
            "windows": windows,
            "context": shape.context_length,
            "seconds_per_step": per_step,
            "all_seconds": seconds[contender.kind],
            "tokens_per_second": round(tokens),
            "mfu": None if peak is None else round(6 * parameters * tokens / peak, 4),
            "of_products": round(6 * parameters * tokens / rate, 4),
            "products": rate,
            "peak_memory": contender.peak,
            "planned_memory": training_memory(shape, contender.config, hardware),
            "ready_seconds": round(contender.ready_seconds, 1),
        }
    yield from muon_share(contenders, hardware)


def muon_share(contenders: list[Contender], hardware: Hardware) -> Iterator[Facts]:
    """Seconds of each optimizer's part of a step."""
    for contender in contenders:
        if contender.kind != "gptlite muon":
            continue
        for optimizer in contender.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                parameter.grad = torch.randn_like(parameter)
            seconds = timed(optimizer.step, hardware.device, times=5)
            yield {"optimizer": type(optimizer).__name__, "seconds": seconds}


# ------------------------------------------------------------------------------------------------ orthogonalisation


def usual(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The same quintics in the usual order, x at a time, whose products take more work and round off less."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = (x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)).to(dtype)
    for a, b, c in orthogonal_momentum.ORTHOGONALISATION:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def orthogonal(options: argparse.Namespace) -> Iterator[Facts]:
    device = choose_hardware(options.device).device
    shapes = [(2, 32, 96)] if options.smoke else [(12, 768, 3072), (48, 768, 768), (144, 64, 768), (24, 1024, 2816)]
    for shape in shapes:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(shape, generator=generator)
        low = torch.randn(*shape[:2], 16, generator=generator) @ torch.randn(
            shape[0], 16, shape[2], generator=generator
        )
        for kind, matrices in (("gaussian", noise), ("nearly low rank", low + 0.05 * noise)):
            x = matrices.to(device)
            want = orthogonal_momentum.orthogonalise(x).float()
            ways: dict[str, Callable[[], Tensor]] = {"as it is": lambda x=x: orthogonal_momentum.orthogonalise(x)}
            bf16 = choose_hardware(options.device, "bf16", compile="off")
            if device.type == "cuda":
                ways["tf32"] = in_context(bf16.rough_products, lambda x=x: orthogonal_momentum.orthogonalise(x))
            ways["bf16"] = in_context(bf16.autocast, lambda x=x: orthogonal_momentum.orthogonalise(x))
            for dtype in (torch.bfloat16, torch.float16):
                ways[f"usual order, {dtype}"] = lambda x=x, dtype=dtype: usual(x, dtype)
            for way, work in ways.items():
                found = work().float()
                values = torch.linalg.svdvals(found[:2])
                yield {
                    "shape": shape,
                    "matrices": kind,
                    "way": way,
                    "seconds": timed(work, device, times=10),
                    "singular_values": [values.min().item(), values.max().item()],
                    "unlike": ((found - want).norm() / want.norm()).item(),
                }


# ---------------------------------------------------------------------------------------------- memory, and the plan


def memory(options: argparse.Namespace) -> Iterator[Facts]:
    """Peaks of shapes of which each differs from the first in one thing, so that a formula can be fitted to them."""
    first = ModelConfig.preset(
        "qwen3", "small", 8192, n_layers=8, dim=512, n_heads=8, context_length=512, tie_embeddings=False
    )
    if options.smoke:
        first = replace(first, n_layers=2, dim=32, n_heads=2, n_kv_heads=2, head_dim=16, hidden_dim=96, vocab_size=300)
    train = TrainConfig(batch_size=32)
    cases: list[tuple[str, ModelConfig, TrainConfig]] = [
        ("first", first, train),
        ("half the windows", first, replace(train, batch_size=16)),
        ("twice the vocabulary", replace(first, vocab_size=2 * first.vocab_size), train),
        ("twice the layers", replace(first, n_layers=2 * first.n_layers), train),
        ("twice the inner width", replace(first, hidden_dim=2 * first.hidden_dim), train),
        ("accumulated", first, replace(train, accumulate=4)),
        ("recomputed", first, replace(train, recompute=True)),
        ("gpt2", ModelConfig.preset("gpt2", "small", first.vocab_size, n_layers=first.n_layers, dim=first.dim,
                                    n_heads=first.n_heads, context_length=first.context_length), train),
    ]  # fmt: skip
    for dtype in ("bf16", "fp32"):
        hardware = choose_hardware(options.device, dtype, compile="off")
        for name, shape, config in cases:
            for compiled in (False, True) if name == "first" and not options.smoke else (False,):
                yield {
                    "case": name,
                    "dtype": dtype,
                    "compiled": compiled,
                    "shape": shape.to_dict(),
                    "windows": config.batch_size,
                    "parameters": shape.n_params,
                    "peak": peak_memory(shape, config, hardware, compiled),
                    "planned": training_memory(shape, config, hardware),
                }


def peak_memory(shape: ModelConfig, config: TrainConfig, hardware: Hardware, compiled: bool) -> int | None:
    """Bytes that training steps allocate at most on the GPU."""
    gc.collect()
    if hardware.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if hardware.device.type == "cuda" else 0
    model = GPT(shape)
    initialise(model, seed=0)
    model.to(hardware.device).train()
    if config.recompute:
        optim.recompute_blocks(model)
    optimizers = optim.make_optimizers(model, config)
    loss_of = compile.compile_with_torch(model, config, hardware) if compiled else optim.mean_loss
    batch = torch.randint(shape.vocab_size, (config.batch_size, shape.context_length + 1))
    for _ in range(2):
        optim.training_step(model, optimizers, batch, hardware, 1.0, loss_of, config.accumulate)
    return torch.cuda.max_memory_allocated() - before if hardware.device.type == "cuda" else None


def ladder(options: argparse.Namespace) -> Iterator[Facts]:
    hardware = choose_hardware(options.device, compile="off")
    rungs = plan.LADDER[:2] if options.smoke else plan.LADDER
    for n_layers, dim in rungs:
        context = 128 if dim < 320 else 256
        shape = ModelConfig.preset(
            "qwen3", "small", 8192, n_layers=n_layers, dim=dim, context_length=context, tie_embeddings=False
        )
        tokens = plan.TOKENS_PER_STEP["cpu" if options.smoke else "gpu"]
        speed = measure_speed(shape, TrainConfig(batch_size=tokens // context), hardware, 0.5)
        yield {
            "rung": [n_layers, dim],
            "parameters": shape.n_params,
            "seconds_per_step": speed.seconds_per_step,
            "tokens_per_second": round(speed.tokens_per_second),
            "operations": 6 * shape.n_params * speed.tokens_per_second,
        }


# --------------------------------------------------------------------------------------------------- the command


def train(rest: str, options: argparse.Namespace) -> Facts:
    """`gptlite train TEXT --time ...` as its user runs it, with nothing in its caches."""
    if options.text is None:
        raise SystemExit("name a text: --text corpus.txt")
    budget, _, how = rest.partition("-")
    command = [sys.executable, "-m", "gptlite", "train", str(options.text.absolute()), "--time", budget, "--json"]
    command += ["--device", options.device] if options.device != "cuda" else []
    command += ["--compile", "on"] if how == "compiled" else []
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "GPTLITE_CACHE": str(Path(folder) / "cache"), "NO_COLOR": "1"}
        env["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")
        if "PYTHONPATH" in env:
            env["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in env["PYTHONPATH"].split(os.pathsep))
        began = time.monotonic()
        ended = subprocess.run([*command, "-o", "run"], cwd=folder, env=env, capture_output=True, text=True)
        took = time.monotonic() - began
        if ended.returncode:
            raise SystemExit(f"exit code {ended.returncode}: {ended.stderr[-2000:]}")
        info = json.loads((Path(folder) / "run" / "run.json").read_text())
        log = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in log if "val_bits_per_byte" in line]
    return {
        "asked": float(budget.rstrip("s")),
        "took": round(took, 2),
        "result": json.loads(ended.stdout),
        "plan": info["plan"],
        "expected": info.get("expected"),
        "hardware": info["hardware"],
        "curve": [[line.get("elapsed"), line["step"], line["val_bits_per_byte"]] for line in scored],
        "said": ended.stderr[-1500:],
    }


def muon(options: argparse.Namespace) -> Iterator[Facts]:
    """Scores of the same run under two precisions of Muon's products, two seeds each."""
    from gptlite.training import pipeline

    if options.text is None:
        raise SystemExit("name a text: --text corpus.txt")
    shape: Facts = {"n_layers": 6, "dim": 384, "context_length": 256, "vocab_size": 4096, "steps": 400}
    if options.smoke:
        shape = {"n_layers": 2, "dim": 32, "n_heads": 2, "context_length": 32, "vocab_size": 300, "steps": 3}
    plain = orthogonal_momentum.orthogonalise
    bf16 = choose_hardware(options.device, "bf16", compile="off")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GPTLITE_CACHE"] = str(Path(folder) / "cache")
        for seed in (1, 2):
            for way, orthogonalise in (("as it is", plain), ("bf16", in_context(bf16.autocast, plain))):
                orthogonal_momentum.orthogonalise = orthogonalise
                out = Path(folder) / f"{way}-{seed}"
                facts = pipeline.train(
                    str(options.text), out=out, device=options.device, compile="off", seed=seed, batch_size=32,
                    eval_every=10**6, save_every=10**6, sample_every=10**6, **shape,
                )  # fmt: skip
                yield {"way": way, "seed": seed, **facts}


def generate(options: argparse.Namespace) -> Iterator[Facts]:
    shape, _ = shape_of("smoke" if options.smoke else "qwen3-124M")
    model = GPT(shape)
    initialise(model, seed=0)
    model.eval()
    for device in dict.fromkeys((choose_hardware(options.device).device.type, "cpu")):
        model.to(device)
        for rows in (1, 32):
            n = 8 if options.smoke else 64 if device == "cuda" else 16
            decoder = EagerDecoder(model, rows)
            decoder.prefill(torch.zeros(rows, 16, dtype=torch.long))
            ids = torch.zeros(rows, dtype=torch.long)
            seconds = []
            for _ in range(n):
                began = time.perf_counter()
                ids = decoder.step(ids.cpu()).argmax(dim=-1)
                ids = ids.cpu()  # where the sampler works
                seconds.append(time.perf_counter() - began)
            per_token = statistics.median(seconds)
            yield {"device": device, "rows": rows, "tokens_per_second": round(rows / per_token), "threads":
                   torch.get_num_threads()}  # fmt: skip


if __name__ == "__main__":
    main()
