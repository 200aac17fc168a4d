"""gptlite generate."""
