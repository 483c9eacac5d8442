"""A Modelfile for Ollama.

Ollama knows a chat template only if it resembles one of its own, and otherwise sends the bare prompt
without a word. So the template is written out in Ollama's language (Go's text/template) too.
"""

from __future__ import annotations

from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import END_OF_TEXT, TURN_END, TURN_START

TEMPLATE = (
    "{{- range .Messages }}" + TURN_START + "{{ .Role }}\n{{ .Content }}" + TURN_END + "\n"
    "{{ end }}" + TURN_START + "assistant\n"
)
"""ChatML as `tokenizer.chat.render` writes it. Go has no `trim`: white space around a message stays."""
STOPS = (TURN_END, TURN_START, END_OF_TEXT)


def modelfile(gguf: str, tokenizer: BPETokenizer) -> str:
    """Text of a Modelfile for a GGUF file, named relative to the Modelfile. A template that is not ours stays
    in the GGUF, where Ollama looks for it."""
    ends = [token for token, number in tokenizer.special_ids.items() if number in tokenizer.stop_ids]
    ours = tokenizer.imported is None
    stops = "".join(f'PARAMETER stop "{stop}"\n' for stop in (STOPS if ours else ends))
    template = f'TEMPLATE """{TEMPLATE}"""\n' if ours else ""
    return f"FROM ./{gguf}\n{template}{stops}PARAMETER temperature 0\n"
