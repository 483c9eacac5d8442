"""The main text of pages, found in a child process that may hang or die without harm."""
