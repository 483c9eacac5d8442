"""Tiny tokenizers and chat templates of the shapes in which open models come. The templates are our own,
after the formats that the models' makers describe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from modelwright.tokenizer.patterns import GPT2_PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN

SAMPLE = (
    "You are a helpful assistant. The user asks: what is the capital of France? The assistant says: Paris, "
    "of course. [INST] [/INST] <<SYS>> user system assistant\n\n def f(x):\n    return x + 12\n It's May 3. "
    "weather in Paris is rainy; the tool returns 12 degrees. Grüße aus Köln, привет, 日本語 です. "
)


def sentencepiece(kind: str, specials: tuple[str, ...] = (), rstrip: bool = False) -> Tokenizer:
    """BPE with byte fallback, the space written U+2581. `kind` is how a text's first space comes about:
    "legacy" (Llama 2's file: before every piece), "first" (before the text), or "none" (Gemma)."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False)
    learner.train_from_iterator([SAMPLE * 8], trainer)
    learned = json.loads(learner.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    if kind == "none":
        names = ["<pad>", "<eos>", "<bos>", "<unk>", *names[3:]]
    vocabulary = {name: number for number, name in enumerate([*names, *learned["vocab"]])}
    merges = [tuple(merge) for merge in learned["merges"]]
    made = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    space = normalizers.Replace(" ", "▁")
    decoder: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    elif kind == "first":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made.normalizer = space
    if kind != "none":
        decoder.append(decoders.Strip(" ", 1, 0))
    made.decoder = decoders.Sequence(decoder)
    first = [name for name in names if not name.startswith("<0x")]
    made.add_special_tokens([AddedToken(name, normalized=False) for name in first])
    made.add_special_tokens([AddedToken(name, normalized=False, rstrip=rstrip) for name in specials])
    bos = "<bos>" if kind == "none" else "<s>"
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
    )
    return made


def byte_level(
    pattern: str, specials: tuple[str, ...], *, added: tuple[str, ...] = (), nfc: bool = False, bos: str = ""
) -> Tokenizer:
    """Byte-level BPE; `added` are tokens that are not special."""
    made = Tokenizer(models.BPE(ignore_merges=pattern == LLAMA3_PATTERN))
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, byte])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [SAMPLE * 8], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    if nfc:
        made.normalizer = normalizers.NFC()
    made.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    made.add_tokens([AddedToken(name, normalized=False) for name in added])
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return made


LLAMA_2 = """
{%- if messages[0].role == 'system' %}
{%- set rest = messages[1:] %}{% set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}
{%- else %}{% set rest = messages %}{% set system = '' %}{% endif %}
{%- for message in rest %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('turns must alternate') }}{% endif %}
{%- if message.role == 'user' %}
{{- bos_token + '[INST] ' + (system if loop.first else '') + message.content.strip() + ' [/INST]' }}
{%- else %}{{- ' ' + message.content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

MISTRAL = """
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools and loop.last %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST] ' + message.content + '[/INST]' }}
{%- elif message.role == 'tool' %}
{{- '[TOOL_RESULTS] ' + ({'content': message.content} | tojson) + '[/TOOL_RESULTS]' }}
{%- elif message.tool_calls %}
{{- '[TOOL_CALLS] [' }}
{%- for call in message.tool_calls %}
{{- call.function | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}
{{- ']' + eos_token }}
{%- elif message.role == 'assistant' %}{{ ' ' + message.content | trim + eos_token }}
{%- else %}{{ raise_exception('only user, assistant and tool take turns') }}{% endif %}
{%- endfor %}"""

LLAMA_3 = """
{{- bos_token }}
{%- if tools %}{{ '<|start_header_id|>system<|end_header_id|>\\n\\nEnvironment: ipython\\n' }}
{%- for tool in tools %}{{ tool | tojson(indent=4) + '\\n' }}{% endfor %}
{{- 'Respond in the format {"name": function name, "parameters": dictionary}.<|eot_id|>' }}{% endif %}
{%- for message in messages %}
{%- if message.tool_calls %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}
{%- else %}
{%- set role = 'ipython' if message.role == 'tool' else message.role %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

QWEN_2 = """
{%- if tools %}{{ '<|im_start|>system\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{% endfor %}{{ '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}{{ '<|im_start|>' + message.role }}
{%- if message.content or not message.tool_calls %}{{ '\\n' + message.content }}{% endif %}
{%- for call in message.tool_calls %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN_3 = """
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
{%- set thought = '' %}{% set content = message.content %}
{%- if message.role == 'assistant' and '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.index0 > ns.last and (loop.last or thought) %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}
{{- content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

SMOLLM_2 = """
{%- for message in messages %}
{%- if loop.first and messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% else %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

GEMMA = """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

PHI_3 = """
{%- for message in messages %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

MARKED = """
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
{%- else %}{{ message.content + '<|im_end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEXT_TOKENS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>")
_MISTRAL = (
    *("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
_SP = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


class Family(NamedTuple):
    """A kind of model: how its folder is made, and what is true of it."""

    backend: Callable[[], Tokenizer]
    template: str
    config: dict[str, Any]
    end_of_turn: str
    system: bool = True
    generation: dict[str, Any] | None = None
    tools: bool = False

    def write(self, folder: Path) -> Path:
        """The folder of tokenizer files."""
        folder.mkdir(parents=True, exist_ok=True)
        backend = self.backend()
        backend.save(str(folder / "tokenizer.json"))
        stated = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        config = {**stated, **self.config, "chat_template": self.template}
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        if self.generation is not None:
            ids = [backend.token_to_id(token) for token in self.generation["stops"]]
            (folder / "generation_config.json").write_text(
                json.dumps({"eos_token_id": ids}), encoding="utf-8"
            )
        return folder


FAMILIES: dict[str, Family] = {
    "llama-2": Family(lambda: sentencepiece("legacy"), LLAMA_2, _SP, "</s>"),
    "llama-2, one space": Family(lambda: sentencepiece("first"), LLAMA_2, _SP, "</s>"),
    "tinyllama": Family(lambda: sentencepiece("legacy"), ZEPHYR, _SP | {"pad_token": "</s>"}, "</s>"),
    "mistral": Family(
        lambda: sentencepiece("first", _MISTRAL), MISTRAL, _SP, "</s>", system=False, tools=True,
    ),
    "llama-3": Family(
        lambda: byte_level(
            LLAMA3_PATTERN, ("<|begin_of_text|>", "<|end_of_text|>", *_HEADERS), bos="<|begin_of_text|>"
        ),
        LLAMA_3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, "<|eot_id|>",
        generation={"stops": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]}, tools=True,
    ),
    "qwen-2": Family(
        lambda: byte_level(QWEN2_PATTERN, _CHATML, added=_TEXT_TOKENS, nfc=True), QWEN_2,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}, "<|im_end|>",
        generation={"stops": ["<|im_end|>", "<|endoftext|>"]}, tools=True,
    ),
    "qwen-3": Family(
        lambda: byte_level(QWEN2_PATTERN, _CHATML, added=_TEXT_TOKENS, nfc=True), QWEN_3,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}, "<|im_end|>",
        generation={"stops": ["<|im_end|>", "<|endoftext|>"]},
    ),
    "smollm-2": Family(
        lambda: byte_level(GPT2_PATTERN, (*_CHATML, "<repo_name>")), SMOLLM_2,
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}, "<|im_end|>",
    ),
    "gemma": Family(
        lambda: sentencepiece("none", ("<start_of_turn>", "<end_of_turn>")), GEMMA,
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        "<end_of_turn>", system=False, generation={"stops": ["<eos>", "<end_of_turn>"]},
    ),
    "phi-3": Family(
        lambda: sentencepiece(
            "legacy", ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), rstrip=True
        ),
        PHI_3, _SP | {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, "<|end|>",
        generation={"stops": ["<|endoftext|>", "<|end|>"]},
    ),
    "marked": Family(
        lambda: byte_level(QWEN2_PATTERN, _CHATML), MARKED,
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, "<|im_end|>",
    ),
}  # fmt: skip
