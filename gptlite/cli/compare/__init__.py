"""gptlite compare."""
