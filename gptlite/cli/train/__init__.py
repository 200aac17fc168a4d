"""gptlite train."""
