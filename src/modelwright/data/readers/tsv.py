"""Tab-separated values: CSV with another delimiter."""

from modelwright.data.readers.csv import rows

__all__ = ["rows"]
