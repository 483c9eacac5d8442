"""Measuring models: likelihood, generation, statistics, and the report a person reads."""
