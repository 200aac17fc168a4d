"""gptlite concordance."""
