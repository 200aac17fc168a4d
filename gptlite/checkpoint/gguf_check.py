"""Does llama.cpp read from a GGUF file what the model says? It is asked, and every answer is compared.

Three questions: the ids of odd texts, the likeliest continuation token by token, and all probabilities along a text
that the model itself wrote. The last one gives the divergence of Kullback and Leibler, in nats a token: what is lost
by numbers of fewer bits, whatever the text is about.
"""

from __future__ import annotations

import importlib
import importlib.util
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptlite.distribution import install_hint
from gptlite.errors import CheckpointError, UsageError
from gptlite.kv_cache import KVCache
from gptlite.model import GPT
from gptlite.randomness import mix
from gptlite.text.tokenizer import Tokenizer

N_TEXTS, N_GREEDY, N_SAMPLED = 300, 200, 256  # texts, and tokens
LONGEST_CONTEXT = 512  # tokens; a longer one would only take memory
TIE = 1e-3  # two logits that are no further apart are equal as far as either program can tell
LARGEST_DIVERGENCE = {"f32": 1e-4, "f16": 1e-3, "q8_0": 5e-2}  # nats a token; beyond, something is wrong
SILENCE: list[Any] = []  # a callback for C, which must live as long as the library
PIECES = (
    "Ada", " finds", " the", "river", "don't", "WE'VE", " 1234567", "3.14", "\n", "\n\n\n", "\r\n", "\t", " ", "   ",
    "naïve", "Straße", "ΑΒΓ", "ქართული", "русский", "العربية", "עברית", "हिन्दी", "ไทย", "天地玄黄", "。", "한국어",
    "🙂", "👩\u200d👩\u200d👧", "🇫🇷", "e\u0301", "\u00a0", "\u2028", "\u3000", "\ufeff", "\ufffd", "<|endoftext|>",
    "</s>", "[", "]", "_", "--", "...", "!?", "\\n", "x==y;", "#", "@", "$9.99", "²", "½", "Ⅷ", "\x00", "\x1b[0m",
    "\u200b", "\U0010ffff",
)  # fmt: skip


@dataclass(frozen=True)
class GgufReport:
    """What llama.cpp made of a file.

    - `unequal`: those of `n_texts` texts that it cuts into other tokens.
    - `n_greedy` tokens were written; `n_equal` are alike, up to the end or to two tokens of (nearly) one probability
      (`tie`) or to a difference.
    - `loss`, `their_loss`: nats a token of `n_sampled` tokens that the model wrote; `divergence` nats a token.
    """

    version: str
    n_texts: int
    unequal: tuple[str, ...]
    n_greedy: int
    n_equal: int
    tie: bool
    n_sampled: int
    loss: float
    their_loss: float
    divergence: float

    def problem(self, dtype: str) -> str | None:
        """What should not be in a file with numbers of this type, as a sentence; None where all is well."""
        if self.unequal:
            return f"it cuts {len(self.unequal)} of {self.n_texts} texts into other tokens, such as {self.unequal[0]!r}"
        if dtype == "f32" and self.n_equal < self.n_greedy and not self.tie:
            return f"it writes another text after {self.n_equal} of {self.n_greedy} tokens"
        if not self.divergence <= LARGEST_DIVERGENCE[dtype]:
            return f"its probabilities diverge by {self.divergence:.2g} nats a token"
        return None


def check_installed() -> None:
    """Raises `UsageError` where there is no llama.cpp to ask."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise UsageError(f"`verify` needs the package llama-cpp-python; install it: {install_hint('llama')}.")


def verify_gguf(path: Path, model: GPT, tokenizer: Tokenizer) -> GgufReport:
    """Compare a file with the model (in `eval()` mode, on the CPU) that it was made from.

    Raises `CheckpointError` where llama.cpp cannot open it.
    """
    llama_cpp: Any = importlib.import_module("llama_cpp")
    if not SILENCE:  # its remarks, such as that it rounds contexts up, would go to standard error
        SILENCE.append(llama_cpp.llama_log_callback(lambda level, text, data: None))
        llama_cpp.llama_log_set(SILENCE[0], None)
    context = min(model.config.context_length, LONGEST_CONTEXT)
    try:
        theirs = llama_cpp.Llama(
            str(path),
            n_ctx=context,
            n_batch=context,
            n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(),
            n_gpu_layers=0,
            logits_all=True,
            type_k=llama_cpp.GGML_TYPE_F32,  # as exact as ours; its own cache has half precision
            type_v=llama_cpp.GGML_TYPE_F32,
            # What the file says of scaled positions, instead of the values of this package.
            yarn_ext_factor=-1.0,
            yarn_attn_factor=-1.0,
            yarn_beta_fast=-1.0,
            yarn_beta_slow=-1.0,
            verbose=False,
        )
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: llama.cpp cannot open it: {error}.") from error
    try:
        texts = odd_texts(N_TEXTS)
        if '"NFC"' in tokenizer.to_json():  # llama.cpp leaves composing characters to its users
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        unequal = [t for t in texts if theirs.tokenize(t.encode(), add_bos=False, special=False) != tokenizer.encode(t)]

        start = [tokenizer.separator_id]
        greedy = write(model, start, min(N_GREEDY, context - 1), sample=False)
        answer = theirs.generate(start, temp=0.0, top_k=1, repeat_penalty=1.0)
        found = [token for token, _ in zip(answer, greedy, strict=False)]
        n_equal = next((i for i, pair in enumerate(zip(greedy, found, strict=True)) if len({*pair}) > 1), len(greedy))

        sampled = write(model, start, min(N_SAMPLED, context - 1), sample=True)
        ours = _log_probabilities(_logits(model, [*start, *sampled[:-1]]))
        theirs.reset()
        theirs.eval([*start, *sampled[:-1]])
        other = _log_probabilities(np.array(theirs.scores[: len(sampled)], dtype=np.float64))
    finally:
        theirs.close()
    rows = np.arange(len(sampled))
    return GgufReport(
        version=llama_cpp.__version__,
        n_texts=len(texts),
        unequal=tuple(unequal),
        n_greedy=len(greedy),
        n_equal=n_equal,
        tie=n_equal < len(greedy) and _is_tie(model, [*start, *greedy[:n_equal]], greedy[n_equal], found[n_equal]),
        n_sampled=len(sampled),
        loss=float(-ours[rows, sampled].mean()),
        their_loss=float(-other[rows, sampled].mean()),
        divergence=float((np.exp(ours) * (ours - other)).sum(1).mean()),
    )


def odd_texts(n: int) -> list[str]:
    """Texts of up to 12 pieces of many scripts, always the same ones; the first are the pieces alone."""
    texts: list[str] = list(PIECES[:n])
    for i in range(n - len(texts)):
        length = 2 + mix(2 * i) % 11
        texts.append("".join(PIECES[mix(1000 * i + j + 7) % len(PIECES)] for j in range(length)))
    return texts


@torch.inference_mode()
def write(model: GPT, start: Sequence[int], n: int, *, sample: bool) -> list[int]:
    """The n most likely ids after `start` or, with `sample`, n drawn with a fixed seed; all fit into the context."""
    generator = torch.Generator().manual_seed(0)
    cache = KVCache(model.config, 1)
    logits = model(torch.tensor([list(start)]), cache)[:, -1]
    ids: list[int] = []
    while True:
        token = torch.multinomial(logits.softmax(-1), 1, generator=generator)[0] if sample else logits.argmax(-1)
        ids.append(int(token))
        if len(ids) == n:
            return ids
        logits = model(token[:, None], cache)[:, -1]


@torch.inference_mode()
def _logits(model: GPT, ids: Sequence[int]) -> np.ndarray:
    return model(torch.tensor([list(ids)]))[0].double().numpy()


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _is_tie(model: GPT, ids: Sequence[int], ours: int, theirs: int) -> bool:
    last: Any = _logits(model, ids)[-1]
    return bool(abs(last[ours] - last[theirs]) < TIE)
