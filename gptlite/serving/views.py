"""What the page of a server asks of the model: its tokens, its logits, and what it does inside.

Each call has the ids that it is about, so the server keeps nothing for a page but the hidden states of what was read
last. The numbers are those of `worker.js`, which computes them where the model runs in the page itself.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlite.config import LARGEST_NUMBER
from gptlite.embedding.similarity import unit
from gptlite.evaluation import inspection
from gptlite.evaluation.surprisal import STEP_NAMES, STEPS
from gptlite.serving.description import describe
from gptlite.serving.fields import BadRequest, Fields
from gptlite.serving.limits import Limits
from gptlite.tracing import trace
from gptlite.trained_model import Model

MOST_SHOWN = 192  # tokens of which all layers and heads are shown
MOST_BEST = 100
KEPT, LARGEST_KEPT = 4, 1 << 26  # texts whose hidden states are kept, and numbers of all of them
LOGITS_AT_ONCE = 64  # tokens

BIT = float(np.log(2))


class Views:
    """Answers to the calls of a page, by name. Not for several threads at once."""

    def __init__(self, loaded: Model, name: str, limits: Limits) -> None:
        self.loaded, self.name, self.limits = loaded, name, limits
        self.config, self.tokenizer = loaded.config, loaded.tokenizer
        self.device = loaded.model.head.weight.device
        self.kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self.calls: dict[str, Callable[[Fields], Any]] = {
            "model": self.model, "encode": self.encode, "bits": self.bits, "logits": self.logits, "maps": self.maps,
            "lens": self.lens, "expected": self.expected, "step": self.step, "state": self.state, "fixed": self.fixed,
            "space": self.space, "nearest": self.nearest,
        }  # fmt: skip

    def answer(self, call: str, body: dict[str, Any]) -> Any:
        """What a call answers, arrays packed. Raises `BadRequest`."""
        fields = Fields(body)
        with torch.inference_mode():
            return _packed(self.calls[call](fields))

    # -- Calls

    def model(self, fields: Fields) -> dict[str, Any]:
        fields.finish()
        known, tokens = self.description, self.tokenizer.token_bytes
        most = self.limits.max_new_tokens
        return {
            "name": self.name, "config": self.config.to_dict(), "nParams": self.config.n_params, "dtype": "f32",
            "special": known.special, "prompt": known.prompt, "facts": known.facts,
            "sampling": {**known.sampling, "max_new_tokens": min(known.sampling["max_new_tokens"], most)},
            "steps": list(STEPS), "stepNames": list(STEP_NAMES),
            "bytes": np.frombuffer(b"".join(tokens), np.uint8),
            "ends": np.cumsum([len(token) for token in tokens]).astype(np.uint32),
        }  # fmt: skip

    def encode(self, fields: Fields) -> dict[str, Any]:
        """Ids, and the units of UTF-16 that each covers, as JavaScript counts a text; `begins`: as a prompt begins."""
        text = fields.text("text", "") or ""
        text = self.tokenizer.begin(text) if fields.flag("begins") else text
        fields.finish()
        ids, spans = self.tokenizer.encode_with_spans(text)
        at = np.cumsum([0, *(1 + (character > "\uffff") for character in text)]).tolist()
        return {"text": text, "ids": ids, "spans": [[at[start], at[end]] for start, end in spans]}

    def bits(self, fields: Fields) -> np.ndarray:
        """The surprisal of each id after the first."""
        ids = self._ids(fields)
        fields.finish()
        states = self._hidden(ids)[-1]
        true = torch.tensor(ids[1:], device=self.device)
        parts = [
            -self.loaded.model.head(some).float().log_softmax(-1).gather(-1, those[:, None])[:, 0]
            for some, those in zip(states[:-1].split(LOGITS_AT_ONCE), true.split(LOGITS_AT_ONCE), strict=True)
        ]
        return torch.cat(parts).cpu().numpy() / BIT if parts else np.zeros(0)

    def logits(self, fields: Fields) -> np.ndarray:
        ids = self._ids(fields)
        t = self._place(fields, ids)
        fields.finish()
        return self._logits(ids, t)[-1].cpu().numpy()

    def maps(self, fields: Fields) -> np.ndarray:
        """Of all heads, the weights as a triangle each, row by row."""
        ids = self._shown(fields)
        fields.finish()
        weights = inspection.attend(self.loaded.model, (0, ids)).weights
        rows, columns = np.tril_indices(len(ids))
        return weights[:, :, rows, columns].ravel()

    def lens(self, fields: Fields) -> dict[str, np.ndarray]:
        """What each layer expects after each token but the last, and the bits of the one that came: (T - 1, L + 1)."""
        ids = self._shown(fields)
        fields.finish()
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for t, came in enumerate(ids[1:]):
            found = self._logits(ids, t).log_softmax(-1)
            best = found[:, : self.tokenizer.vocab_size].argmax(-1)
            columns.append((best, found.gather(-1, best[:, None])[:, 0].exp(), -found[:, came] / BIT))
        if not columns:
            raise BadRequest("ids must be two at least, to see what each layer expects of the second.", field="ids")
        best, p, bits = (torch.stack(column).cpu().numpy() for column in zip(*columns, strict=True))
        return {"best": best.astype(np.uint32), "p": p, "bits": bits}

    def expected(self, fields: Fields) -> list[dict[str, Any]]:
        """The likeliest tokens after a token, had the model ended after so many layers."""
        ids = self._ids(fields)
        t, layer = self._place(fields, ids), fields.whole("layer", self.config.n_layers, 0, self.config.n_layers)
        n = fields.whole("n", 8, 1, min(MOST_BEST, self.config.vocab_size))
        fields.finish()
        p, best = self._logits(ids, t)[layer].softmax(-1).topk(n)
        return [{"id": i, "p": q} for i, q in zip(best.tolist(), p.tolist(), strict=True)]

    def step(self, fields: Fields) -> dict[str, Any]:
        """One step of attention, of the tokens up to one."""
        ids = self._ids(fields)
        t = self._place(fields, ids)
        layer = fields.whole("layer", 0, 0, self.config.n_layers - 1)
        head = fields.whole("head", 0, 0, self.config.n_heads - 1)
        fields.finish()
        made = inspection.explain(self.loaded.model, (0, ids[: t + 1]), layer + 1, head + 1, t)
        return {
            "query": made.query, "keys": made.keys, "values": made.values, "scaled": made.scaled,
            "weights": made.weights, "output": made.output,
        }  # fmt: skip

    def state(self, fields: Fields) -> np.ndarray:
        ids = self._ids(fields)
        t, layer = self._place(fields, ids), fields.whole("layer", self.config.n_layers, 0, self.config.n_layers)
        fields.finish()
        return self._hidden(ids)[layer, t].float().cpu().numpy()

    def fixed(self, fields: Fields) -> np.ndarray:
        """The mean of the rows of ids in the table of tokens."""
        ids = self._ids(fields)
        fields.finish()
        return self._rows([ids])[0]

    def space(self, fields: Fields) -> dict[str, np.ndarray] | None:
        layer = fields.whole("layer", 0, 0, self.config.n_layers)
        fields.finish()
        space = self.description.space
        return None if space is None else {name: array[layer] for name, array in space.items()}

    def nearest(self, fields: Fields) -> list[list[Any]]:
        """Words of the training text whose rows point most nearly where those of ids do, with the cosine."""
        ids, n = self._ids(fields), fields.whole("n", 9, 1, MOST_BEST)
        fields.finish()
        words = self.description.words
        if not words:
            return []
        cosines = self._words @ unit(self._rows([ids]))[0]
        return [[words[i], float(cosines[i])] for i in np.argsort(-cosines, kind="stable")[:n]]

    # -- What they are made of

    @cached_property
    def description(self) -> Any:
        return describe(self.loaded)

    @cached_property
    def _words(self) -> np.ndarray:
        """The directions (n, D) of the words that have a static vector."""
        return unit(self._rows(self.tokenizer.encode_batch([f" {word}" for word in self.description.words])))

    def _rows(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        table = self.loaded.model.transformer.embed.weight
        return np.stack([table[torch.tensor(some, device=self.device)].mean(0).float().cpu().numpy() for some in ids])

    def _ids(self, fields: Fields) -> list[int]:
        """The field `ids`: at least one, and no more than the model reads at once."""
        value, most = fields.get("ids"), self.config.context_length
        if not isinstance(value, list) or not 0 < len(value) <= most:
            raise BadRequest(f"ids must be a list of 1 to {most:,} token ids.", field="ids")
        if any(isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < self.config.vocab_size for i in value):
            raise BadRequest(
                f"ids has one that is none; they go from 0 to {self.config.vocab_size - 1:,}.", field="ids"
            )
        return value

    def _shown(self, fields: Fields) -> list[int]:
        """The field `ids`, as many as are shown at once."""
        ids = self._ids(fields)
        if len(ids) > MOST_SHOWN:
            raise BadRequest(f"ids are {len(ids):,}; layers and heads are shown of {MOST_SHOWN:,}.", field="ids")
        return ids

    def _place(self, fields: Fields, ids: Sequence[int]) -> int:
        return fields.whole("at", len(ids) - 1, 0, min(len(ids) - 1, LARGEST_NUMBER))

    def _size(self) -> int:
        return sum(states.numel() for states in self.kept.values())

    def _logits(self, ids: list[int], t: int) -> Tensor:
        """Logits (L + 1, V) of what follows token t, as each layer would have it."""
        states, norm = self._hidden(ids)[:, t], self.loaded.model.transformer.norm
        return self.loaded.model.head(torch.cat([norm(states[:-1]), states[-1:]])).float()

    def _hidden(self, ids: list[int]) -> Tensor:
        """Hidden states (L + 1, T, D), the last of them past the final norm."""
        key = tuple(ids)
        if key not in self.kept:
            seen = trace(self.loaded.model, torch.tensor([ids], device=self.device), head=False)
            self.kept[key] = torch.cat(seen.hidden)
            while len(self.kept) > 1 and (len(self.kept) > KEPT or self._size() > LARGEST_KEPT):
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]


def _packed(value: Any) -> Any:
    """A value with its arrays as base64 of little-endian numbers, which pages unpack: served.js."""
    if isinstance(value, np.ndarray):
        kind = {np.dtype(np.uint8): "u8", np.dtype(np.uint32): "u32"}.get(value.dtype, "f32")
        raw = value.astype({"u8": "u1", "u32": "<u4", "f32": "<f4"}[kind]).tobytes()
        return {kind: base64.b64encode(raw).decode(), "shape": list(value.shape)}
    if isinstance(value, dict):
        return {name: _packed(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_packed(part) for part in value]
    return value
