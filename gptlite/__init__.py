"""gptlite: your own text files to a small GPT on your own computer.

    import gptlite
    run = gptlite.train("corpus.txt", time="3m")["run"]
    model = gptlite.load(run)
    print(model.generate("Once", n=3, seed=1)[0].text)
    model.embed(["on the river [bank] .", "money into the [bank] ."]).cosine()

Errors that a user can mend are `gptlite.errors.GptliteError`. The names below are loaded on first use, so that
importing gptlite is quick. docs/reference/python.md describes all of them.
"""

# Nothing is imported here, not even from Python's own library: see __main__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from gptlite.config import ModelConfig, SamplingConfig, TrainConfig
    from gptlite.trained_model import Model, load
    from gptlite.training.pipeline import train

__version__ = "0.1.0"
__all__ = ["Model", "ModelConfig", "SamplingConfig", "TrainConfig", "__version__", "load", "train"]

_HOMES = {
    "train": "training.pipeline",
    "load": "trained_model",
    "Model": "trained_model",
    "ModelConfig": "config",
    "SamplingConfig": "config",
    "TrainConfig": "config",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gptlite' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"gptlite.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
