"""Which language a text is in: fastText's linear model over words and pieces of words."""
