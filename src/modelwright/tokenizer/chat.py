"""The one chat template: a conversation becomes token ids and a loss mask, here and nowhere else.

Finetune, align, evaluate and serve all call `render`; `CHAT_TEMPLATE` is the same template in Jinja
for everybody else's programs, and a test holds the two to the same ids. The format is ChatML:

    <|im_start|>user
    What is the capital of France?<|im_end|>
    <|im_start|>assistant
    Paris.<|im_end|>

Three rules keep it honest. The special tokens are written as ids and the words between them as plain
text, so nobody can smuggle a turn into a message by typing `<|im_end|>`. Messages lose the white
space at both ends, so that the tokens of an answer never depend on the line break before it: what is
trained is what will be generated. And the ids of a conversation are a prefix of the ids of the same
conversation with one more turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation
from modelwright.base.seams import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""Ends a document. Also the padding token."""
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
"""Ends a turn: generation of an answer stops here."""
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
"""In the order of their ids: 0, 1, 2 in a vocabulary that we learn."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template in Jinja. There is no default system prompt: what is not said is not there."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as tokens."""

    ids: list[int]
    mask: list[bool]
    """True where the token is supervised: the assistant's words and the `<|im_end|>` after them."""


def render(
    tokenizer: Tokenizer, conversation: Conversation, *, add_generation_prompt: bool = False
) -> Rendered:
    """A conversation -> ids and loss mask, of equal length.

    With `add_generation_prompt` the ids end where the assistant's next answer begins.
    """
    if conversation.tools:
        raise UserError(
            f"the conversation offers {len(conversation.tools)} tools, and this chat template has no place "
            "for them. Describe the tools in a system message, or leave them out."
        )
    turn_start, turn_end = tokenizer.special_ids[TURN_START], tokenizer.special_ids[TURN_END]
    line_break = tokenizer.encode("\n")
    ids: list[int] = []
    mask: list[bool] = []

    def add(tokens: list[int], supervised: bool = False) -> None:
        ids.extend(tokens)
        mask.extend([supervised] * len(tokens))

    for message in conversation.messages:
        answer = message.role == "assistant"
        add([turn_start, *tokenizer.encode(f"{message.role}\n")])
        add([*tokenizer.encode(message.content.strip()), turn_end], supervised=answer)
        add(line_break)
    if add_generation_prompt:
        add([turn_start, *tokenizer.encode("assistant\n")])
    return Rendered(ids, mask)
