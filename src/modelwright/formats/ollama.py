"""A Modelfile for Ollama.

Ollama knows a chat template only if it resembles one of its own, and otherwise sends the bare prompt
without a word. So the template is written out in Ollama's language (Go's text/template) too.
"""

from __future__ import annotations

from modelwright.tokenizer.chat import END_OF_TEXT, TURN_END, TURN_START

TEMPLATE = (
    "{{- range .Messages }}" + TURN_START + "{{ .Role }}\n{{ .Content }}" + TURN_END + "\n"
    "{{ end }}" + TURN_START + "assistant\n"
)
"""ChatML as `tokenizer.chat.render` writes it. Go has no `trim`: white space around a message stays."""


def modelfile(gguf: str) -> str:
    """Text of a Modelfile for a GGUF file, named relative to the Modelfile."""
    stops = "".join(f'PARAMETER stop "{stop}"\n' for stop in (TURN_END, TURN_START, END_OF_TEXT))
    return f'FROM ./{gguf}\nTEMPLATE """{TEMPLATE}"""\n{stops}PARAMETER temperature 0\n'
