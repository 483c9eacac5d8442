"""The same text in many languages, for the study of vocabularies."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from modelwright.base.errors import DamagedFile, UserError


def read_parallel(path: Path, reference: str) -> dict[str, str]:
    """Language -> text from JSON Lines (.gz too), in order of the languages' names.

    A row has `language` and `text`, or, as the Universal Declaration of Human Rights is kept,
    `iso639_3`, `script` and `articles`. A language with several scripts counts once for each: "srp-Cyrl";
    of several rows for one the first is taken. The reference goes by its language's name alone.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file: expected JSON Lines with the same text in many languages")
    found: dict[str, str] = {}
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                number += 1
                language, text = _language_and_text(json.loads(line), reference)
                found.setdefault(language, text)
    except (KeyError, TypeError, ValueError) as error:
        wrong = f"it has no field {error}" if isinstance(error, KeyError) else f"that it is not: {error}"
        raise DamagedFile(
            f"{path}, row {number}: expected a JSON object with 'language' and 'text', and {wrong}"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFile(f"{path} cannot be read behind row {number}: {error}") from error
    if reference not in found:
        raise UserError(f"{path} has no text in the language '{reference}', only in {len(found)} others")
    return dict(sorted(found.items()))


def _language_and_text(row: dict[str, Any], reference: str) -> tuple[str, str]:
    if "articles" not in row:
        return str(row["language"]), str(row["text"])
    name = str(row["iso639_3"])
    script = row.get("script")
    return name if name == reference or not script else f"{name}-{script}", "\n".join(row["articles"])
