"""gptlite report."""
