"""Formats on disk that other tools read: Hugging Face folders, GGUF, model cards."""
