"""gptlite export."""
