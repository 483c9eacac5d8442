"""From what a recipe names to nouns: the embedded corpus by its name, all else from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.files import canonical_json, sha256_text
from modelwright.base.policy import NO_JURISDICTION, stated_facts
from modelwright.base.provenance import Facts, Provenance, personal_data_flag
from modelwright.base.schema import Conversation, Json, Preference
from modelwright.data.atlas.documents import LICENCE as ATLAS_LICENCE
from modelwright.data.readers.files import find_files
from modelwright.data.readers.source import Source
from modelwright.data.readers.storage import is_remote, readable, sha256_of, stat

ATLAS_STATEMENT = ("licence", "indefinite")
"""Legal basis and retention of the embedded corpus."""


def provenance_of(items: Iterable[Conversation] | Iterable[Preference]) -> Provenance:
    """The roll-up of conversations or pairs, from what their `meta` says of where they come from."""

    known = (facts_of(item.meta) for item in items)
    return Provenance.count(
        (source, licence, jurisdiction, personal_data_flag(personal))
        for source, licence, jurisdiction, personal in known
    )


def facts_of(meta: Mapping[str, Json]) -> tuple[str, str, str, bool | None]:
    """Source, licence, jurisdiction, and whether there is personal data, of a conversation or a pair."""
    if meta["source"] == "atlas":
        return "atlas", ATLAS_LICENCE, NO_JURISDICTION, False
    return meta["source"], meta["licence"], meta["jurisdiction"], meta["personal_data"]


def stated(sources: Sequence[Source], masks: bool = False) -> Provenance:
    """What sources say of themselves, each as one text: what a policy can judge before any work. `masks`:
    personal data will be looked for and masked. Raises UserError as `statements` does."""
    statements(sources)
    found: dict[str, Facts] = {}
    for source in sources:
        if source.is_atlas:
            found["atlas"] = stated_facts(ATLAS_LICENCE, NO_JURISDICTION, "no", *ATLAS_STATEMENT)
            continue
        if source.is_written:  # it states nothing of its own: what it was made from is known of the input
            continue
        flag = personal_data_flag(source.personal_data, masks)
        facts = stated_facts(source.licence, source.jurisdiction, flag, source.legal_basis, source.retention)
        found[source.name] = found.get(source.name, Facts()).joined(facts, max)
    return Provenance(by_source=found)


def statements(sources: Sequence[Source]) -> dict[str, tuple[str, str]]:
    """Source -> (legal basis, retention), for the roll-up. These are stated of a name as a whole, so two
    sources of one name that differ in them are a UserError: one would speak for the other's texts."""
    found: dict[str, tuple[str, str]] = {}
    for source in sources:
        said = ATLAS_STATEMENT if source.is_atlas else (source.legal_basis, source.retention)
        name = "atlas" if source.is_atlas else source.name
        for what, one, other in zip(("legal_basis", "retention"), found.get(name, said), said, strict=True):
            if one != other:
                raise UserError(
                    f"two sources have the name '{name}' and state a different {what}: '{one}' and '{other}'."
                    " It is kept by name, so give each a name of its own, or let them state the same"
                )
        found[name] = said
    return found


HASHED_BYTES = 1 << 30
"""Input of at most this size is hashed to see whether it has changed: two seconds at most."""


class SourceFile(Config):
    """A file that was read, so that a later run can tell whether it has changed."""

    path: str
    bytes: int
    sha256: str


def describe(sources: Sequence[Source]) -> list[SourceFile]:
    """Path, size and hash of every file that the sources name now."""
    files = [file.path for source in sources if source.is_outside for file in find_files(source)]
    return [
        SourceFile(path=readable(path), bytes=stat(path).size, sha256=sha256_of(path))
        for path in dict.fromkeys(files)
    ]


def mark(sources: Sequence[Source]) -> str:
    """A hash of what the sources' files hold now. A recipe that names a folder stays the same while the
    folder changes, so a stage that reads sources is only up to date while this is unchanged. Input that is
    large or far away is not read for it: size and time of the last change stand for its content."""
    files = [file.path for source in sources if source.is_outside for file in find_files(source)]
    seen = {path: stat(path) for path in dict.fromkeys(files)}
    if any(map(is_remote, seen)) or sum(each.size for each in seen.values()) > HASHED_BYTES:
        return sha256_text(canonical_json([[readable(p), s.size, s.mark] for p, s in seen.items()]))
    return sha256_text(canonical_json([file.model_dump() for file in describe(sources)]))
