"""Chunks that the rules of `plain.py` would cut wrongly, and how they are cut.

English contractions ("do|n't", "he|'ll"), times ("10|am"), abbreviations that keep their full stop
("Mr."), and emoticons. What is listed, and that contractions also come without their apostrophe
("do|nt"), follows the blank English pipeline of spaCy 3 (MIT), on whose words the published filters count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

Pieces = tuple[str, ...]

LONGEST = 16
"""No exception is longer, in characters."""

_EMOTICONS = r"""
:) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-(
:(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o
:0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^
>.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3
<33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>
"""

_EVERYWHERE = r"""\t \n — ' \") <space> '' C++ ä. ö. ü."""

_ABBREVIATIONS = """
a.m. Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. co. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. e.g. E.g.
E.G. Feb. Fla. Ga. Gen. Gov. i.e. I.e. I.E. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd.
Mar. Mass. Md. Messrs. Mich. Minn. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr.
Nev. Nov. Oct. Okla. Ore. p.m. Pa. Ph.D. Prof. Rep. Rev. S.C. Sen. Sep. Sept. St. Tenn. Va. vs. v.s. Wash.
Wis. and/or w/o
"""

_CLIPPED = """
doin goin nothin nuthin ol somethin Doin Goin Nothin Nuthin Ol Somethin doin' goin' nothin' nuthin' ol'
somethin' Doin' Goin' Nothin' Nuthin' Ol' Somethin' lovin havin Lovin Havin lovin' havin' Lovin' Havin' em ll
nuff 'em 'll 'nuff 'S 's ‘S ‘s 're 'd 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am Ma'am o'clock
O'clock
"""

_IRREGULAR = """
y'|all y|all how|'d|'y How|'d|'y not|'ve not|ve Not|'ve Not|ve can|not Can|not gon|na Gon|na got|ta Got|ta
let|'s Let|'s c'm|on C'm|on
"""

_NOT_CUT = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore"
"""Contractions without their apostrophe that are words of their own."""

_PRONOUNS = "i you he she it we they"
_ASKING = "who what when where why how there that this these those"
_HELPING = "ca could do does did had may might must need ought sha should wo would"
_NEGATED = "ai are is was were have has dare"


@cache
def exceptions(language: str) -> Mapping[str, Pieces]:
    """Chunk -> its pieces. The contractions are for "en" alone; other languages get what is no language's."""
    alone = [*_EMOTICONS.split(), *_EVERYWHERE.split(), *(f"{c}." for c in "abcdefghijklmnopqrstuvwxyz")]
    found: dict[str, Pieces] = {chunk: (chunk,) for chunk in alone}
    found |= {f"°{unit}.": ("°", unit, ".") for unit in "cfkCFK"}
    if language == "en":
        whole = set(_NOT_CUT.split())
        found |= {"".join(pieces): pieces for pieces in _english() if "".join(pieces) not in whole}
        found |= {chunk: (chunk,) for chunk in (*_ABBREVIATIONS.split(), *_CLIPPED.split())}
        found |= {
            chunk.replace("'", "’"): tuple(p.replace("'", "’") for p in found[chunk]) for chunk in found
        }
    return found


def _curly(text: str) -> str:
    return text.replace("'", "’")


def _english() -> Iterator[Pieces]:
    for pieces in _contractions():
        for spelled in (pieces, tuple(piece.replace("'", "") for piece in pieces)):
            yield spelled
            yield (spelled[0].title(), *spelled[1:])
    for hour in range(1, 13):
        for half in ("a.m.", "am", "p.m.", "pm"):
            yield str(hour), half
    for chunk in _IRREGULAR.split():
        yield tuple(chunk.split("|"))


def _contractions() -> Iterator[Pieces]:
    yield "i", "'m"
    yield "i", "'m", "a"
    asking = _ASKING.split()
    for word in (*_PRONOUNS.split(), *asking):
        for endings in (("'ll",), ("'ll", "'ve"), ("'d",), ("'d", "'ve")):
            yield word, *endings
        if word in ("he", "she", "it", *asking) and word not in ("these", "those"):
            yield word, "'s"
        if word not in ("he", "she", "it", "that", "this"):
            yield word, "'ve"
        if word not in ("i", "he", "she", "it", "that", "this"):
            yield word, "'re"
    helping = _HELPING.split()
    for verb in (*helping, *_NEGATED.split()):
        yield verb, "n't"
        if verb in helping:
            yield verb, "n't", "'ve"
        if verb in ("could", "might", "must", "should", "would"):
            yield verb, "'ve"
