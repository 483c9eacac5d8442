"""One small file a genre: each has a function (world, rng) -> endless texts, listed in documents.py."""
