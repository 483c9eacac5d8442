"""The command line: one command per verb, and a few to look and to talk. It parses, calls, nothing else.

Data goes to standard output, everything for the eye to standard error. Exit codes: 0 ok, 1 failed,
2 usage, 3 a gate said no, 130 interrupted. What a command needs is imported when the command runs, so
that `--help` answers at once (design/0002). A file of this folder holds the commands of one kind; they
stand in `--help` in the order in which `main` names the files.
"""

from modelwright.cli.main import main

__all__ = ["main"]
