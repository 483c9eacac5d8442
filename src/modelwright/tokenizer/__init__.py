"""Text to token ids and back: learning the vocabulary, the chat template, and ids on disk."""
