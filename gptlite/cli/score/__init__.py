"""gptlite score."""
