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
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


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
            measure(port, options)
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

    tokenizer = Tokenizer.train(["the quick brown fox jumps over the lazy dog and the cat " * 50], 300)
    config = ModelConfig.preset(
        "qwen3", "tiny", dim=dim, n_heads=max(1, dim // 64), n_layers=n_layers, context_length=256, vocab_size=2048
    )
    model = GPT(config)
    initialise(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.02, generator=generator))
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


def measure(port: int, options: argparse.Namespace) -> None:
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

    def speed(n_clients: int) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(n_clients) as pool:
            n_tokens = sum(pool.map(client, range(n_clients)))
        return n_tokens / (time.perf_counter() - began)

    speed(1)
    print(f"| round | 1 client, tokens/s | {options.clients} clients, tokens/s | ratio |\n|---|---|---|---|")
    ratios: list[float] = []
    for number in range(1, options.rounds + 1):
        alone, together = speed(1), speed(options.clients)
        ratios.append(together / alone)
        print(f"| {number} | {alone:,.0f} | {together:,.0f} | {ratios[-1]:.2f} |", flush=True)
    print(f"\n{options.clients} clients get {statistics.median(ratios):.2f} times the tokens of one (median).")


if __name__ == "__main__":
    main()
