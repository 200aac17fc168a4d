"""gptlite words."""
