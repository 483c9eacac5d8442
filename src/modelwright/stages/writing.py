"""Who writes: a model on this machine behind its chat template, or an endpoint; and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from modelwright.base.artifact import MANIFEST
from modelwright.base.config import Config
from modelwright.base.device import choose
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.policy import stated_facts
from modelwright.base.provenance import UNKNOWN, Provenance, personal_data_flag
from modelwright.base.schema import Answer, Prompt, Sampling
from modelwright.base.seams import Writer
from modelwright.data.readers.source import Stated
from modelwright.data.synthesis.endpoint import Endpoint, EndpointConfig
from modelwright.formats.card import licence_behind
from modelwright.formats.locate import files_mark, fingerprint, resolve_model
from modelwright.formats.open_model import open_model
from modelwright.inference.answers import Delta
from modelwright.inference.engine import Engine
from modelwright.model.flops import matmul_parameters
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.template import TemplateRefuses

AHEAD = 4
"""Prompts that wait in the engine for each one that it answers: enough that no place is ever empty."""


class LocalWriter(Stated):
    """A model on this machine."""

    model: str = ""
    """A Hugging Face folder, quantized or not, a stage's folder, or a run directory."""
    licence: str = ""
    """What its texts may be used for (SPDX). Where nothing is said: what its manifest or its card states,
    else "unknown"."""
    slots: int = Field(default=32, gt=0)
    """Answers that are written at once."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What it computes in; auto: bf16 where that is faster."""


class EndpointWriter(Stated, EndpointConfig):
    """A model behind HTTP, in OpenAI's protocol."""


class SamplingConfig(Config):
    """How words are drawn."""

    max_tokens: int = Field(default=512, gt=0)
    """Longest answer."""
    temperature: float = Field(default=0.7, ge=0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest tokens that have this share together."""
    top_k: int = Field(default=0, ge=0)
    """Draw among so many; 0: all. Not every endpoint knows it."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Draw among those with this share of the likeliest one's probability. Not every endpoint knows it."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""

    def sampling(self) -> Sampling:
        """As a noun, without a seed."""
        return Sampling(**self.model_dump())


def _kind(settings: Any) -> str:
    """Which of the two is meant: who has an address is an endpoint."""
    is_endpoint = isinstance(settings, EndpointWriter) or (isinstance(settings, dict) and "url" in settings)
    return "endpoint" if is_endpoint else "model"


WriterConfig = Annotated[
    Annotated[LocalWriter, Tag("model")] | Annotated[EndpointWriter, Tag("endpoint")], Discriminator(_kind)
]
"""{model: FOLDER}, or {url: ADDRESS, model: NAME, key_from: VARIABLE}."""


class EngineWriter:
    """Our engine behind a model's chat template. A `Writer`."""

    def __init__(
        self, engine: Engine, tokenizer: BPETokenizer, name: str, slots: int, flops_per_token: float = 0.0
    ) -> None:
        self._engine, self._tokenizer, self.name = engine, tokenizer, name
        self._window = slots * AHEAD
        self.flops_per_token = flops_per_token

    def write(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Each answer when it has ended; giving the iterator up ends those that are being written."""
        open_: dict[int, tuple[int, int]] = {}
        """Request -> (place, tokens of its prompt)."""
        ahead = iter(enumerate(prompts))
        try:
            is_more = True
            while is_more or open_:
                while is_more and len(open_) < self._window:
                    place, prompt = next(ahead, (-1, None))
                    is_more = prompt is not None
                    if prompt is None:
                        break
                    try:
                        ids = render(self._tokenizer, prompt.conversation, add_generation_prompt=True).ids
                        open_[self._engine.submit(ids, prompt.sampling)] = place, len(ids)
                    except (UserError, TemplateRefuses) as error:
                        yield place, Answer(fault=str(error), model=self.name)
                for delta in self._engine.step() if open_ else ():
                    if delta.request in open_ and (delta.completion or delta.error):
                        place, read = open_.pop(delta.request)
                        yield place, self._answer(delta, read)
        finally:
            for request in open_:
                self._engine.cancel(request)

    def _answer(self, delta: Delta, read: int) -> Answer:
        done, timing = delta.completion, delta.timing
        if done is None:
            return Answer(fault=f"{type(delta.error).__name__}: {delta.error}", model=self.name)
        return Answer(
            text=done.text,
            finish_reason=done.finish_reason,
            prompt_tokens=read,
            tokens=len(done.ids),
            model=self.name,
            seconds=0.0 if timing is None else timing.ended - timing.arrived,
        )


def open_writer(config: LocalWriter | EndpointWriter, tell: Callable[[str], None] = lambda _: None) -> Writer:
    """Whoever is meant, ready to write. `tell` hears once of an endpoint that does not answer at once."""
    if isinstance(config, EndpointWriter):
        return Endpoint(config, tell=tell)
    folder = _folder(config)
    device = choose(config.device, config.dtype)
    model, tokenizer = open_model(folder, device)
    if not tokenizer.chat_template:
        raise ConfigError(f"{folder} has no chat template: it continues texts, and takes no turns")
    engine = Engine(model, tokenizer, max_slots=config.slots, owns_model=True)
    flops = 2.0 * matmul_parameters(model.config)
    return EngineWriter(engine, tokenizer, writer_name(config), config.slots, flops)


def check_writer(config: LocalWriter | EndpointWriter) -> None:
    """Raises UserError where nobody could write: no model is named or there, a key is missing."""
    if isinstance(config, EndpointWriter):
        Endpoint(config)
    else:
        _folder(config)


def writer_name(config: LocalWriter | EndpointWriter) -> str:
    """Who writes, for the record: of a folder its name and a hash of what it holds."""
    if isinstance(config, EndpointWriter):
        return config.name
    folder = _folder(config)
    return f"{_called(config)}@{fingerprint(folder)}"


def writer_mark(config: LocalWriter | EndpointWriter) -> str:
    """Changes when the files of a local model do."""
    if isinstance(config, EndpointWriter) or not config.model:
        return ""
    return files_mark(_folder(config))


def writer_facts(config: LocalWriter | EndpointWriter) -> Provenance:
    """The writer as a source of its own, with what is stated of it: rows carry its terms to who learns from
    them."""
    if not config.model:
        return Provenance()
    flag = personal_data_flag(config.personal_data)
    licence = writer_licence(config)
    facts = stated_facts(licence, config.jurisdiction, flag, config.legal_basis, config.retention)
    return Provenance(by_source={f"written by {_called(config)}": facts})


def writer_licence(config: LocalWriter | EndpointWriter) -> str:
    """What its texts may be used for: as stated, else what the manifest or the card of a folder says, else
    "unknown"."""
    if config.licence or isinstance(config, EndpointWriter):
        return config.licence or UNKNOWN
    return licence_behind(_folder(config))


def _folder(config: LocalWriter) -> Path:
    if not config.model:
        raise ConfigError(
            "synthesize.writer is missing: name a model's folder, writer: {model: FOLDER}, or an endpoint,"
            " writer: {url: https://host/v1, model: NAME, key_from: VARIABLE}"
        )
    return resolve_model(config.model)


def _called(config: LocalWriter | EndpointWriter) -> str:
    """The model's name; of a run's, that of the run and the stage."""
    if isinstance(config, EndpointWriter):
        return f"{config.model} at {config.url}"
    folder = _folder(config)
    has_manifest = (folder.parent / MANIFEST).is_file()
    return "/".join(folder.absolute().parts[-3:-1]) if has_manifest else folder.absolute().name
