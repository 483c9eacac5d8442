"""A quality classifier of one's own: learned from good and ordinary text, judged on text held out."""
