"""Text and where it comes from: reading, filtering, splitting, and the embedded corpus."""
