"""A trained model from Python.

    model = gptlite.load("checkpoints/corpus")
    for sample in model.generate("Once", n=3, temperature=0.7, seed=1):
        print(sample.text)
    for piece in model.stream("Once"):
        print(piece, end="")
    e = model.embed(["She sat on the river [bank] .", "He paid money into the [bank] ."])
    model.words.nearest("king")                        # static vectors of words
    e.cosine()                                         # (2, 2): how alike the two are in context
    [text] = model.score("The cat sat on the mat.")
    text.surprisal                                     # (N,): bits of each token
    model.bits_per_byte("The cat sat on the mat.")

Arrays are NumPy's, float32. Several threads may use one model.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from gptlite import tracing
from gptlite.checkpoint import word_vectors
from gptlite.checkpoint.runs import read_model
from gptlite.checkpoint.saved_step import Checkpoint
from gptlite.checkpoint.saved_step import load as read_checkpoint
from gptlite.config import SamplingConfig
from gptlite.device import Hardware, choose_hardware
from gptlite.embedding.comparison import Embeddings
from gptlite.embedding.contextual import find_prefix, resolve_layers, static_vector
from gptlite.embedding.embedder import Embedder, statistics_of
from gptlite.embedding.static import WordVectors, read_table
from gptlite.embedding.static_words import StaticWords
from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.evaluation.inspection import Reading, read
from gptlite.evaluation.scoring import score_model
from gptlite.generation.decoding import Decoding, choose_decoding
from gptlite.generation.generate import Generation, Sample
from gptlite.storage.reader import Reader
from gptlite.text.words import Occurrence, find_word, parse_marked

DEFAULTS = SamplingConfig
Texts = str | Sequence[str]


class Model(Checkpoint):
    """A model that was read from a directory.

    - `path`: the directory. `config`: its `ModelConfig`. `manifest`: what gptlite wrote about the step, or empty.
    - `model`: the torch module, ids (B, T) to logits (B, T, V). `tokenizer`: text to ids and back.
    """

    def generate(
        self,
        prompt: str = "",
        n: int = DEFAULTS.num_samples,
        *,
        seed: int | None = None,
        temperature: float = DEFAULTS.temperature,
        top_k: int = DEFAULTS.top_k,
        top_p: float = DEFAULTS.top_p,
        min_p: float = DEFAULTS.min_p,
        typical_p: float = DEFAULTS.typical_p,
        repetition_penalty: float = DEFAULTS.repetition_penalty,
        presence_penalty: float = DEFAULTS.presence_penalty,
        frequency_penalty: float = DEFAULTS.frequency_penalty,
        no_repeat_ngram: int = DEFAULTS.no_repeat_ngram,
        logit_bias: Mapping[str | int, float] | None = None,
        bans: Texts = DEFAULTS.bans,
        min_new_tokens: int = DEFAULTS.min_new_tokens,
        max_new_tokens: int = DEFAULTS.max_new_tokens,
        stop: Texts = (),
        stop_at: str = "document",
        logprobs: int | None = None,
        batch_size: int | None = None,
    ) -> list[Sample]:
        """Write `n` continuations of a prompt; an empty prompt begins a new document.

        - `seed`: the same seed gives the same texts, whatever `n` and `batch_size` are; None draws one.
        - `temperature` to `max_new_tokens`: see `SamplingConfig`. Lengths are in tokens.
        - `logit_bias`: what is added to the logit of a token, by its text or its id.
        - `bans`: texts that are never written. `stop`: texts before which a sample ends. Each a text, or several.
        - `stop_at`: the unit after which a sample ends: "sentence", "paragraph", "line" or "document".
        - `logprobs`: keep the log-probability (nats) of each token, and this many of the likeliest alternatives.
        - `batch_size`: samples that are written side by side; None is as many as memory allows, at most 32.
        Machine code decodes where that is quicker, with the same result. The prompt is not part of the texts.
        Raises `UsageError` for values that make no sense.
        """
        config = SamplingConfig(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p,
            repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty, no_repeat_ngram=no_repeat_ngram,
            logit_bias=tuple((logit_bias or {}).items()), bans=_several(bans), min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens, num_samples=n,
        )  # fmt: skip
        generation = self._begin(prompt, config, seed, stop, stop_at, logprobs=logprobs, batch_size=batch_size)
        for _ in generation:
            pass
        return generation.samples

    def stream(
        self,
        prompt: str = "",
        *,
        seed: int | None = None,
        temperature: float = DEFAULTS.temperature,
        top_k: int = DEFAULTS.top_k,
        top_p: float = DEFAULTS.top_p,
        min_p: float = DEFAULTS.min_p,
        typical_p: float = DEFAULTS.typical_p,
        repetition_penalty: float = DEFAULTS.repetition_penalty,
        presence_penalty: float = DEFAULTS.presence_penalty,
        frequency_penalty: float = DEFAULTS.frequency_penalty,
        no_repeat_ngram: int = DEFAULTS.no_repeat_ngram,
        logit_bias: Mapping[str | int, float] | None = None,
        bans: Texts = DEFAULTS.bans,
        min_new_tokens: int = DEFAULTS.min_new_tokens,
        max_new_tokens: int = DEFAULTS.max_new_tokens,
        stop: Texts = (),
        stop_at: str = "document",
    ) -> Iterator[str]:
        """Write one continuation, piece by piece, as it is made; arguments as in `generate`.

        The pieces are whole characters and, joined, the text of the first sample that `generate` writes for this seed.
        Memory does not grow with the length. What is wrong with the arguments is raised by the call itself.
        """
        config = SamplingConfig(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p,
            repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty, no_repeat_ngram=no_repeat_ngram,
            logit_bias=tuple((logit_bias or {}).items()), bans=_several(bans), min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
        )  # fmt: skip
        generation = self._begin(prompt, config, seed, stop, stop_at, keep=False)
        return (chunk.text for chunk in generation)

    def embed(
        self,
        texts: Texts | Sequence[Occurrence],
        word: str | None = None,
        *,
        sentence: bool = False,
        layer: str = "last",
        pool: str | None = None,
        context: str = "left",
        prefix: str = "auto",
        n_expected: int = 0,
    ) -> Embeddings:
        """The vectors of n words in context: those in [brackets] in the texts, or every `word` in them.

        Their contextual vectors are `.vectors` (n, D), their static ones `.static` (n, D).

        - `texts`: one text, several, or places in texts as `text.words` finds them.
        - `sentence`: each text as a whole, in place of words in it.
        - `layer`: "mid", "last", a number from 0 (below the first block) to L, "A-B" for the mean of several, or "all":
          then `.vectors` is the mean of all, and `.items[i].contextual` (L + 1, D) has them apart.
        - `pool`: which of a word's tokens count: "last", "mean", "first" or "weighted" (later ones more). None is the
          last of a word, and the weighted mean of a sentence.
        - `context`: the text to the "left" of the word; "echo": the whole text once before; or "both" sides: the
          states at and before the word with a bag of the words around it, `.vectors` (n, 2 D + W), of one layer.
        - `prefix`: what is read before each text; "auto" is what separates documents, or else a line break.
        - `n_expected`: how many tokens that the model expects next are kept in `.items[i].expected`.
        Raises `UsageError` when the texts have no such word, and for unknown choices, and `CheckpointError` for both
        sides of a model that was saved without word vectors.
        """
        if sentence and context == "both":
            raise UsageError("`sentence` has no sides to read; leave out `context` both.")
        if sentence and word is not None:
            raise UsageError("give `word` or `sentence`, not both.")
        embedder = Embedder(
            self, self.statistics, layer=layer, pool=pool or ("weighted" if sentence else "last"), context=context,
            prefix=prefix, n_expected=n_expected, keep="below",
        )  # fmt: skip
        places: list[Occurrence] = []
        for i, text in enumerate([texts] if isinstance(texts, str) else texts):
            if isinstance(text, Occurrence):
                places.append(text)
            elif sentence:
                places += [Occurrence(i, text, 0, len(text))] if text.strip() else []
            else:
                places += parse_marked(text, i) if word is None else find_word(text, i, word)
        if not places:
            if sentence:
                raise UsageError("`texts` are empty.")
            what = "word in brackets" if word is None else f"word '{word}'"
            raise UsageError(f"the texts have no {what}; mark one as in 'on the [bank] .', or name it as `word`.")
        return embedder.compare(embedder.embed(places), "sentence" if sentence else "word")

    def score(self, texts: Texts, *, top: int = 0) -> list[Reading]:
        """How surprising each token and each word of texts is to the model, in bits.

        - `texts`: one text, or several; each is read as a document of its own.
        - `top`: how many of the likeliest alternatives to each token are kept in `.top` (N, top) and `.top_p`.
        Of a text of N tokens there are `.surprisal`, `.entropy` and `.rank` (N,), the characters of each token,
        `.spans`, and `.words`, whose `surprisal` is the sum over their tokens.
        Raises `UsageError` for an empty text and `LimitError` for one of more than 2 million characters.
        """
        return [read(self.model, self.tokenizer, text, self._hardware, top=top) for text in _several(texts)]

    def bits_per_byte(self, text: str) -> float:
        """The sum of -log2 p over all tokens of a text, divided by its bytes in UTF-8; lower is better.

        Each token is predicted from at least half a context of the text before it, where there is that much. Models
        with different vocabularies can be compared. Raises `UsageError` for an empty text.
        """
        if not text:
            raise UsageError("the text is empty, so there is nothing to score.")
        ids = np.array([self.tokenizer.separator_id, *self.tokenizer.encode(text)])
        score = score_model(self.model, self.tokenizer, ids, self._hardware)
        if not np.isfinite(score.nats):
            raise CheckpointError(f"the predictions of {self.path} are not numbers, so its weights are damaged.")
        return score.nats / np.log(2.0) / len(text.encode())

    def static(self, word: str) -> np.ndarray:
        """The static vector (D,) of a word, or of several: the mean of its tokens' rows in the embedding table."""
        return static_vector(self.model, self.tokenizer, word)

    def hidden(self, text: str, layer: str = "all", prefix: str = "auto") -> tuple[np.ndarray, list[tuple[int, int]]]:
        """The hidden states of all T tokens of a text, (layers, T, D), and the characters (start, end) of each token.

        - `layer`: "all" are the L + 1 layers; others as in `embed`, but "A-B" are several, not their mean.
        - `prefix`: as in `embed`; its own states are left out.
        Raises `UsageError` for an empty text and `LimitError` for one that is longer than the model's context.
        """
        ids, spans = self.tokenizer.encode_with_spans(text)
        before = self.find_prefix(prefix)
        if not ids:
            raise UsageError("the text is empty.")
        if len(before) + len(ids) > self.config.context_length:
            raise LimitError(
                f"the text has {len(ids):,} tokens, and the model's context has room for "
                f"{self.config.context_length - len(before):,}; give a shorter one."
            )
        tokens = torch.tensor([[*before, *ids]], device=self._hardware.device)
        states = tracing.hidden(self.model, tokens, resolve_layers(layer, self.config.n_layers))
        return states[:, 0, len(before) :].float().cpu().numpy(), spans

    @cached_property
    def words(self) -> WordVectors:
        """Static vectors of the words of the training text: `.nearest("king")`, `.analogy("king", "man", "woman")`,
        `.similarity("king", "queen")`, and `.keyed_vectors()` for gensim.

        Of a model without them (saved by an older version, or made elsewhere), the rows of its token table; `.name`
        says which, "words" or "token table".
        """
        if self._saved_words is None:
            return read_table(self.path).word_vectors()
        return StaticWords(self.path, self._saved_words).word_vectors()

    @cached_property
    def _saved_words(self) -> word_vectors.SavedWords | None:
        with Reader(self.path, self.manifest) as reader:
            return word_vectors.read(reader)

    @cached_property
    def statistics(self) -> dict[str, np.ndarray] | None:
        """What was measured about the model's vectors when the step was saved; None for models made elsewhere."""
        return statistics_of(self)

    def find_prefix(self, wish: str = "auto") -> list[int]:
        """The ids that are read before each text; see `embedding.contextual.find_prefix`."""
        counts = None if self.statistics is None else self.statistics["token_counts"]
        return find_prefix(self.tokenizer, wish, counts)

    @cached_property
    def _hardware(self) -> Hardware:
        """Where the weights are, in fp32, with as many threads as torch has."""
        device = next(self.model.parameters()).device
        return Hardware(device, bf16=False, threads=torch.get_num_threads(), compile=False, reason="as loaded")

    def _begin(
        self,
        prompt: str,
        config: SamplingConfig,
        seed: int | None,
        stop: Texts,
        stop_at: str,
        *,
        keep: bool = True,
        logprobs: int | None = None,
        batch_size: int | None = None,
    ) -> Generation:
        return Generation(
            self.model, self.tokenizer, prompt, config,
            seed=secrets.randbelow(2**31) if seed is None else seed, stop=_several(stop), stop_at=stop_at, keep=keep,
            logprobs=logprobs, batch_size=batch_size, decoding=self._decoding(config.max_new_tokens),
        )  # fmt: skip

    def _decoding(self, n_steps: int) -> Decoding:
        """How to write about `n_steps` tokens; a compiled decoder is kept, since it has a copy of the weights."""
        kept: Decoding | None = self.__dict__.get("_compiled")
        if kept is None:
            kept = choose_decoding(self.model, n_steps)
            if kept.packed is not None:
                self.__dict__["_compiled"] = kept
        return kept


def load(model: str | Path | None = None, device: str = "auto") -> Model:
    """Read a model: of a run (its best step), of a saved step, or of a Hugging Face directory.

    - `model`: the directory. None is `$GPTLITE_MODEL`, or else the newest run under `checkpoints`.
    - `device`: "auto" (the fastest there is), "cpu", "cuda" or "mps".
    Raises `CheckpointError` that names the file and what is wrong with it, `LimitError` where memory does not suffice.
    """
    chosen = choose_hardware(device, "fp32").device

    def read_with_statistics(path: Path) -> Model:
        loaded = read_checkpoint(path, chosen)
        made = Model(loaded.path, loaded.config, loaded.model, loaded.tokenizer, loaded.manifest)
        _ = made.statistics, made._saved_words  # read now, because a trainer may delete the step
        return made

    return read_model(model, read_with_statistics)


def _several(texts: Texts) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)
