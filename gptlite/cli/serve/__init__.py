"""gptlite serve."""
