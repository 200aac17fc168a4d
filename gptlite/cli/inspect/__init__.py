"""gptlite inspect."""
