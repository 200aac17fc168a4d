"""What is answered: the objects of OpenAI's protocol."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gptlite
from gptlite.serving.writing import Piece, TokenInfo
from gptlite.text.tokenizer import Tokenizer


def error_object(message: str, status: int, field: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an answer that is an error."""
    kind = "server_error" if status >= 500 else "authentication_error" if status == 401 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}


def event(value: Any) -> bytes:
    """A server-sent event with JSON."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


LAST_EVENT = b"data: [DONE]\n\n"


def usage(n_prompt: int, n_written: int) -> dict[str, int]:
    return {"prompt_tokens": n_prompt, "completion_tokens": n_written, "total_tokens": n_prompt + n_written}


@dataclass
class Answer:
    """The answer to one request for texts, whole or in pieces. `chat`: in the form of /v1/chat/completions."""

    model: str
    seed: int
    tokenizer: Tokenizer
    chat: bool
    logprobs: int | None
    include_usage: bool = False
    return_token_ids: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    name: str = field(default_factory=lambda: secrets.token_hex(12))

    def whole(self, pieces: Sequence[Piece], used: dict[str, int]) -> dict[str, Any]:
        """All texts, each one piece."""
        choices = [self._choice(piece) for piece in pieces]
        return self._around(choices, "chat.completion" if self.chat else "text_completion", used)

    def first(self, n: int) -> list[bytes]:
        """What a stream of `n` texts begins with."""
        if not self.chat:
            return []
        begun = [
            {"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            for i in range(n)
        ]
        return [event(self._chunk([choice])) for choice in begun]

    def pieces(self, pieces: Iterable[Piece]) -> list[bytes]:
        """The events of a stream."""
        return [event(self._chunk([self._delta(piece) if self.chat else self._choice(piece)])) for piece in pieces]

    def last(self, used: dict[str, int]) -> list[bytes]:
        """What a stream ends with."""
        return [*([event(self._chunk([], used))] if self.include_usage else []), LAST_EVENT]

    def _chunk(self, choices: list[dict[str, Any]], used: dict[str, int] | None = None) -> dict[str, Any]:
        made = self._around(choices, "chat.completion.chunk" if self.chat else "text_completion", used)
        if not self.include_usage:
            del made["usage"]
        return made

    def _around(self, choices: list[dict[str, Any]], kind: str, used: dict[str, int] | None) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.name}", "object": kind, "created": self.created,
            "model": self.model, "system_fingerprint": f"gptlite-{gptlite.__version__}", "seed": self.seed,
            "choices": choices, "usage": used,
        }  # fmt: skip

    def _choice(self, piece: Piece) -> dict[str, Any]:
        ended = {"finish_reason": piece.finish_reason}
        if self.chat:
            message = {"role": "assistant", "content": piece.text, "refusal": None}
            return {"index": piece.index, "message": message, "logprobs": self._contents(piece.tokens), **ended}
        ids = {"token_ids": [token.id for token in piece.tokens]} if self.return_token_ids else {}
        return {"index": piece.index, "text": piece.text, "logprobs": self._columns(piece.tokens), **ids, **ended}

    def _delta(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {
            "index": piece.index, "delta": delta, "logprobs": self._contents(piece.tokens),
            "finish_reason": piece.finish_reason,
        }  # fmt: skip

    def _columns(self, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        """As /v1/completions has them: a list of each."""
        if self.logprobs is None:
            return None
        tops = [self._tops(token) for token in tokens] if self.logprobs else None
        return {
            "tokens": [spell(self.tokenizer, token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": tops,
            "text_offset": [token.offset for token in tokens],
        }

    def _tops(self, token: TokenInfo) -> dict[str, float] | None:
        """The likeliest, and the one that was drawn."""
        if token.logprob is None:
            return None
        return {spell(self.tokenizer, i): p for i, p in [*token.top, (token.id, token.logprob)]}

    def _contents(self, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        """As /v1/chat/completions has them: an object for each token."""
        if self.logprobs is None:
            return None
        listed = [
            {
                **self._entry(token.id, token.logprob),
                "top_logprobs": [self._entry(i, logprob) for i, logprob in token.top],
            }
            for token in tokens
        ]
        return {"content": listed, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        return {
            "token": spell(self.tokenizer, token), "logprob": logprob, "bytes": list(bytes_of(self.tokenizer, token)),
        }  # fmt: skip


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """What a token spells; nothing, where it is no text."""
    return tokenizer.token_bytes[token] if token < tokenizer.vocab_size else b""


def spell(tokenizer: Tokenizer, token: int) -> str:
    """A token as a string: its text, its bytes as in "bytes:\\xe2\\x80" where they are no text, or the name of one that
    is no text at all."""
    spelled = bytes_of(tokenizer, token)
    if not spelled:
        return tokenizer.backend.id_to_token(token) or f"<|{token}|>"
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def models(name: str, created: int) -> dict[str, Any]:
    """The answer of /v1/models."""
    return {"object": "list", "data": [model(name, created)]}


def model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "gptlite"}


def embeddings(name: str, vectors: np.ndarray, as_base64: bool, n_tokens: int) -> dict[str, Any]:
    """The answer of /v1/embeddings: vectors (n, D), float32."""
    rows = vectors.astype("<f4")
    listed = [base64.b64encode(row.tobytes()).decode() for row in rows] if as_base64 else rows.tolist()
    data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(listed)]
    return {
        "object": "list", "data": data, "model": name,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }  # fmt: skip
