"""An import-linter contract that reads like the table in the design: `a -> b, c`, and nothing else.

import-linter's own `layers` contract allows every import that goes down. Ours allows only what is
listed, so that a new arrow between two packages is a decision that somebody makes in pyproject.toml.
"""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

ROOT = "modelwright"
FLOOR = "base"
"""The package that everybody may import."""


class AllowedImports(Contract):
    """Every package of ours stands in the table, and imports what its line names, or `base`."""

    type_name = "allowed_imports"

    allowed: Any = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        table = parse_table(list(self.allowed))
        packages = {name.split(".")[1] for name in graph.find_children(ROOT)}
        missing = sorted(packages - table.keys())
        forbidden = [
            (importer, imported)
            for importer in sorted(graph.modules)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if not is_allowed(table, importer, imported)
        ]
        return ContractCheck(
            kept=not forbidden and not missing and not circles(table),
            metadata={"forbidden": forbidden, "missing": missing, "circles": circles(table)},
        )

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in check.metadata["forbidden"]:
            output.print_error(f"{importer} imports {imported}: the table has no such arrow.")
        for package in check.metadata["missing"]:
            output.print_error(f"{ROOT}.{package} has no line in the table.")
        for package in check.metadata["circles"]:
            output.print_error(f"The table leads from {package} back to {package}.")
        output.print_error("The table stands in pyproject.toml; design/0001 says how to change it.")


def parse_table(lines: list[str]) -> dict[str, set[str]]:
    """{"server": {"inference", ...}} from lines such as "server -> inference, tokenizer"."""
    table: dict[str, set[str]] = {}
    for line in lines:
        importer, arrow, imported = line.partition("->")
        assert arrow and importer.strip() not in table, f"a line is 'a -> b, c', once for each a: {line!r}"
        table[importer.strip()] = {name.strip() for name in imported.split(",") if name.strip()}
    return table


def is_allowed(table: dict[str, set[str]], importer: str, imported: str) -> bool:
    """Whether one module may import another, both as dotted names."""
    if importer == ROOT:
        return False  # the package's own face holds the version and nothing else
    if imported == ROOT:
        return True
    source, target = importer.split(".")[1], imported.split(".")[1]
    return target in (source, FLOOR) or target in table.get(source, set())


def circles(table: dict[str, set[str]]) -> list[str]:
    """Packages from which the table's arrows lead back to themselves."""

    def reachable(package: str) -> set[str]:
        seen: set[str] = set()
        ahead = list(table.get(package, ()))
        while ahead:
            found = ahead.pop()
            if found not in seen:
                seen.add(found)
                ahead.extend(table.get(found, ()))
        return seen

    return [package for package in table if package in reachable(package)]
