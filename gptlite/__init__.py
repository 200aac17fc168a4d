"""gptlite: your own text files to a small GPT on your own computer.

    import gptlite
    gptlite.train("corpus.txt", seconds=180)
    model = gptlite.load("checkpoints/corpus")
    model.embed(["on the river [bank] .", "money into the [bank] ."]).cosine()

The names below are loaded on first use, so that importing gptlite is quick.
"""

# Nothing is imported here, not even from Python's own library: see __main__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from gptlite.embedding.contextual import embed
    from gptlite.generation.generate import generate
    from gptlite.trained_model import load
    from gptlite.training.pipeline import train

__version__ = "0.1.0"
__all__ = ["__version__", "embed", "generate", "load", "train"]

_HOMES = {
    "train": "training.pipeline",
    "generate": "generation.generate",
    "embed": "embedding.contextual",
    "load": "trained_model",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gptlite' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"gptlite.{_HOMES[name]}"), name)
