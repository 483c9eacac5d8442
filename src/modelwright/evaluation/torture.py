"""Strings on which tokenizers that seem equal part ways.

Each stands for a fault that exported tokenizers have had: a changed split of digits or of white space,
a normalizer that should not be there, a byte fallback, special tokens recognised in plain text. None
holds NUL, which C interfaces take for the end of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from modelwright.base.schema import Conversation, Message

TORTURE: tuple[str, ...] = (
    "Hello, world!",
    " leading space",
    "trailing space ",
    "  two  spaces   three    four     five",
    "a" + " " * 64 + "b",
    "\ttab\t\ttabs\t \tmixed",
    "line\nline\n\nparagraph\n\n\n\nend\n",
    "windows\r\nline\r\n\r\nends\rlone",
    " \n \n  \n\t\n",
    "It's we've they'll I'm you'd can't DON'T 's 'S ’s don’t",
    "0 1 12 123 1234 12345 3.14159 1,000,000 1e-10 0x7f",
    "31415926535897932384626433832795028841971693993751",
    "２０２４ ٣٤٥ १२३ ⅷ ½ ²",
    "def f(x: int) -> int:\n    return x ** 2 if x != 0 else -1  # 100%\n\n\tprint(f'{f(3)!r}')\n",
    '{"a": [1, 2.5e3, null, true], "b\\u00e9": "\\n"}',
    "<html><body class='x'>&amp;&lt;</body></html>",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\dir\\file.txt",
    "<|im_end|>",
    "<|im_start|>system\nYou obey the user's text.<|im_end|>\n",
    "<|endoftext|> <|im_start|><|im_end|> <|unknown|> <s> </s> [INST] <pad> <0x0A>",
    "< |im_end| > <|im_end|",
    "naïve café Ångström façade Größe straße ŒUVRE",
    "e\u0301 vs \u00e9, A\u030a vs \u00c5, n\u0303, q\u0307\u0323 and q\u0323\u0307",
    "ﬁ ﬂ ﬃ Ⅷ ㎏ ™ ℃ ｆｕｌｌ ｗｉｄｔｈ",
    "Москва — столица России; «ёлка», Київ",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας, ΟΔΥΣΣΕΎΣ",
    "القاهرة عاصمة مصر، ١٢٣ كِتَابٌ",
    "ירושלים שָׁלוֹם \u200fמעורב\u200e mixed \u202eoverride\u202c",
    "東京は日本の首都です。カタカナ、ひらがな、漢字。",
    "北京是中国的首都，人口超过两千万。",
    "서울은 대한민국의 수도이다. \u1112\u1161\u11ab",
    "नई दिल्ली भारत की राजधानी है। क्षत्रिय",
    "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "👍 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 1️⃣ ❤️ ☎︎",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒮𝒸𝓇𝒾𝓅𝓉 𐍈 𒀀 🜁 𠮷",
    "zero\u200bwidth\u200cjoin\u200der\u2060word\ufeffbom",
    "no\u00a0break\u202fnarrow\u3000ideographic\u2003em\u2028line\u2029paragraph\u0085next",
    "\x01\x02\x07\x08\x0b\x0c\x0e\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "\ufffd \ufffe \uffff \U0010ffff \ue000 \U000f0000",
    "Z̷̢͔̈́a̶͓̐l̸̰̇g̵̻̈́ȏ̶͜ ̴̝̂t̶̡́e̵͖͝x̸̘̏t̷͙͝",
    "!!!???...,,,;;;:::---___***///\\\\\\|||~~~```^^^",
    "\"quotes\" 'single' “curly” ‘curly’ «guillemets» „low“",
    "∀x∈ℝ: ∑ᵢ xᵢ² ≥ 0 ⇒ √2 ≠ π, a≤b≥c±d×e÷f",
    "CamelCaseIdentifier snake_case_identifier kebab-case SCREAMING_CASE x1y2z3",
    "A" * 100,
    "ab" * 50 + "!" * 33 + "\n" * 17,
    "Ünïcödé\r\n\t 42 мир 世界 🌍 'll\u0301 \u0301",
    "",
)
"""One string a line of attack, the empty one included."""

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation(messages=(Message(role="user", content="What is the capital of France?"),)),
    Conversation(
        messages=(
            Message(role="system", content="Answer in one word."),
            Message(role="user", content="And of Japan?"),
            Message(role="assistant", content="Tokyo."),
            Message(role="user", content="Merci 👍"),
        )
    ),
    Conversation(
        messages=(
            Message(role="user", content="  \n white space around \t\n"),
            Message(role="assistant", content="a\n\nb"),
            Message(role="user", content="{{ messages }} {% raw %} <b>&amp;</b> 'quoted' \\n <|im_end|>"),
        )
    ),
    Conversation(messages=(Message(role="user", content=""),)),
)
"""For the chat template: system prompt, several turns, white space, and text that looks like a template."""


def vocabulary_strings(pieces: Sequence[str], limit: int = 512, size: int = 16) -> tuple[str, ...]:
    """Texts made of a tokenizer's own pieces, on lines of their own and run together.

    A wrong split shows only where the vocabulary has a piece that the split cuts: with few merges, no
    fixed set of strings can be sure to meet one. The pieces are shuffled, always in the same way.
    """
    shuffled = list(pieces)
    Random(0).shuffle(shuffled)
    groups = [shuffled[i : i + size] for i in range(0, len(shuffled), size)][: limit // 2]
    return tuple(text for group in groups for text in ("\n".join(group), "".join(group)))
