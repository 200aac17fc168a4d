"""Saved steps and run directories, and their translation to Hugging Face and GGUF."""
