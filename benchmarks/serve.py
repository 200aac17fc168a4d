"""Throughput of `gptlite serve` with many clients over that with one, by turns in one run. Prints a dated table.

    python benchmarks/serve.py [--clients 16] [--rounds 3] [--tokens 200] [--requests 2] [--layers 4 --dim 128]

A server with a model of random weights runs in a process of its own; each client asks for one text after the other,
on a connection that it keeps. Rounds with one client and with all of them alternate, so that whatever else the machine
does falls on both.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        n_parameters = make_model(Path(folder) / "model", options.layers, options.dim)
        command = [sys.executable, "-m", "gptlite", "serve", "-m", str(Path(folder) / "model"), "--port", "0"]
        process = subprocess.Popen(
            [*command, "--threads", str(options.threads), "--compile", "on"], stderr=subprocess.PIPE, text=True
        )
        try:
            port = wait_for_port(process)
            print(
                f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} processors, {options.threads} threads"
            )
            print(f"{n_parameters:,} parameters ({options.layers} x {options.dim}), texts of {options.tokens} tokens\n")
            measure(port, psutil.Process(process.pid), options)
        finally:
            process.terminate()
            process.wait()


def make_model(path: Path, n_layers: int, dim: int) -> int:
    """Save a model with random weights as a step; the number of its parameters."""
    import torch

    from gptlite.checkpoint.saved_step import save_step
    from gptlite.config import ModelConfig
    from gptlite.model import GPT, initialise
    from gptlite.text.tokenizer import Tokenizer

    letters = random.Random(0)
    words = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=2 + i % 7)) for i in range(3000)]
    tokenizer = Tokenizer.train([" ".join(letters.choices(words, k=20_000))], 2048)
    config = ModelConfig.preset(
        "qwen3",
        "tiny",
        dim=dim,
        n_heads=max(1, dim // 64),
        n_layers=n_layers,
        context_length=256,
        vocab_size=tokenizer.vocab_size,
    )
    model = GPT(config)
    initialise(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # embeddings so large that a few dozen tokens are likely
            std = 0.3 if "embed" in name else 0.02
            parameter.add_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
    save_step(path, model.eval(), tokenizer, {})
    return config.n_params


def wait_for_port(process: subprocess.Popen[str]) -> int:
    """The port that the server says it listens at; what it says later is read and dropped."""
    import threading

    stderr = process.stderr
    assert stderr is not None
    for line in stderr:
        if found := re.search(r"at http://127\.0\.0\.1:(\d+)", line):
            threading.Thread(target=lambda: [None for _ in stderr], daemon=True).start()
            return int(found[1])
    raise SystemExit("the server has ended")


def measure(port: int, server: psutil.Process, options: argparse.Namespace) -> None:
    def client(number: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        n = 0
        for i in range(options.requests):
            asked = {"prompt": "the quick", "seed": 100 * number + i, "max_tokens": options.tokens}
            body = json.dumps({**asked, "min_tokens": options.tokens})
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            n += json.loads(connection.getresponse().read())["usage"]["completion_tokens"]
        connection.close()
        return n

    def speed(n_clients: int) -> tuple[float, float]:
        """Tokens for each second, and for each second of a processor that the server took."""
        began, used = time.perf_counter(), sum(server.cpu_times()[:2])
        with ThreadPoolExecutor(n_clients) as pool:
            n_tokens = sum(pool.map(client, range(n_clients)))
        seconds = time.perf_counter() - began
        return n_tokens / seconds, n_tokens / (sum(server.cpu_times()[:2]) - used)

    speed(1)
    columns = ["round"]
    for unit in ("tokens/s", "tokens per second of a processor"):
        columns += [f"1 client, {unit}", f"{options.clients} clients", "ratio"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    ratios: list[list[float]] = []
    for number in range(1, options.rounds + 1):
        alone, together = speed(1), speed(options.clients)
        ratios.append([b / a for a, b in zip(alone, together, strict=True)])
        cells = [f"{a:,.0f} | {b:,.0f} | {b / a:.2f}" for a, b in zip(alone, together, strict=True)]
        print(f"| {number} | {cells[0]} | {cells[1]} |", flush=True)
    by_clock, by_processor = (statistics.median(ratio[i] for ratio in ratios) for i in (0, 1))
    print(f"\n{options.clients} clients get {by_clock:.2f} times the tokens of one client in a second (median).")
    print(f"A second of a processor makes {by_processor:.2f} times as many; other programs hardly change that figure.")


if __name__ == "__main__":
    main()
