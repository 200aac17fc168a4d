"""gptlite embed."""
