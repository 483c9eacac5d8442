"""Whole lives as YAML, shipped with the package. `modelwright recipes` lists them."""
