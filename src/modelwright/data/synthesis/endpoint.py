"""A model behind HTTP in OpenAI's protocol (POST .../chat/completions), as a `Writer`.

Whoever answers there is a stranger: what it sends is bounded in size and in time, however slowly it comes,
and read strictly; redirects are not followed, since the key would go along. The key comes from an environment
variable, is sent to the address and nowhere else, and is cut out of everything that comes back. What may pass
(a busy server, a lost connection) is tried again; what is wrong with one prompt is its fault alone; where
nothing goes through any more, the work ends with an error, and what was answered is with the caller already.
"""

from __future__ import annotations

import json
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, field_validator

from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import canonical_json, sha256_text
from modelwright.base.schema import Answer, Prompt, Sampling
from modelwright.data.conversations.write import as_row
from modelwright.data.synthesis.http import Reply, Unreachable, post
from modelwright.data.synthesis.replies import Hidden, NoCompletion, answer_of, problem_of

PATH = "/chat/completions"
RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
"""Statuses after which the same request may well succeed."""
HOPELESS = frozenset((401, 402, 404, 405))
"""Statuses that say that no other prompt will fare better, as long as none has."""
REFUSED = frozenset((401, 402))
"""Those that say so even after others were answered: the key is taken back, the credit is spent."""
MODERATED = re.compile(r"flagged|moderat|content.?(policy|filter)|safety", re.IGNORECASE)
"""Words of a 403 that is about the prompt. Any other may be about the key, and many in a row are."""
LONGEST_WAIT = 120.0
"""Seconds between two attempts, whatever the server asks for."""
IN_A_ROW = 8
"""So many prompts in a row without an answer, and nobody is there."""
GO_ON = "What was answered is kept: give the same command again, and it goes on from there"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class EndpointConfig(Config):
    """Where it is, who answers there, and how patient we are."""

    url: str = ""
    """The base address: https://host/v1; "/chat/completions" is added."""
    model: str = ""
    """The model's name there."""
    key_from: str = ""
    """The environment variable that holds the key. The key itself stands in no file."""
    concurrency: int = Field(default=8, gt=0, le=256)
    """Requests at once."""
    silence: float | None = Field(default=None, gt=0)
    """Seconds without a byte after which a request is given up; null: `deadline`, since nothing comes while
    an answer is written."""
    deadline: float = Field(default=600.0, gt=0)
    """Seconds that one attempt may take in all."""
    retries: int = Field(default=5, ge=0, le=20)
    """Further attempts after one that may pass, with growing pauses (Retry-After is heeded)."""
    body: dict[str, Any] = {}
    """Further fields of the request; null leaves one of ours out: {max_tokens: null, max_completion_tokens:
    4096}."""
    insecure: bool = False
    """Send the key without encryption to another machine."""

    @property
    def name(self) -> str:
        """Who answers there, and a hash of what `body` asks besides: other settings, other answers."""
        asks = f", body {sha256_text(canonical_json(self.body))[:12]}" if self.body else ""
        return f"{self.model} at {self.url}{asks}"

    @field_validator("body")
    @classmethod
    def _is_no_other_request(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted({"model", "messages"} & set(value)):
            raise ValueError(
                f"received {' and '.join(taken)}, which the request has from elsewhere: the model is named by"
                " `model` beside `url`, and the prompts are the messages"
            )
        return value

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value:
            split_url(value)
        return value.rstrip("/")


def split_url(url: str) -> SplitResult:
    """The parts of a base address. ValueError where it is none, or holds more than one should."""
    if any(not 33 <= ord(letter) <= 126 for letter in url):
        raise ValueError("expected an address in printable ASCII, e.g. https://host/v1")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an address that begins with http:// or https://, e.g. https://host/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "expected an address without user, password, query and fragment: a key is named by key_from, the"
            " environment variable that holds it"
        )
    _ = parts.port  # raises where it is no number
    return parts


def read_key(config: EndpointConfig, environment: Mapping[str, str] | None = None) -> str:
    """The key, or "" where none is wanted. Errors name the variable and never its value."""
    if not config.key_from:
        return ""
    key = (os.environ if environment is None else environment).get(config.key_from, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {config.key_from} (key_from) is empty or not set: put the key for"
            f" {config.url} there"
        )
    if any(not 33 <= ord(letter) <= 126 for letter in key):
        raise ConfigError(f"the environment variable {config.key_from} holds letters that no key has")
    parts = split_url(config.url)
    if parts.scheme == "http" and parts.hostname not in LOOPBACK and not config.insecure:
        raise ConfigError(
            f"{config.url} is not encrypted, and the key in {config.key_from} would be sent in the clear."
            " Take https, or say insecure: true where the network is your own"
        )
    return key


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a prompt."""

    answer: Answer
    is_down: bool = False
    """Whether the fault says nothing of the prompt: the server is away, fails, or is none."""
    hopeless: str = ""
    """Why no other prompt will fare better, where that is known."""
    is_refused: bool = False
    """Whether that holds even where others were answered."""
    forbidden: str = ""
    """Why no other prompt will fare better, where so many in a row are told the same."""


class Endpoint:
    """A `Writer` with several requests open at once."""

    def __init__(
        self,
        config: EndpointConfig,
        environment: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`tell` hears once why a first request is tried again."""
        if not config.url or not config.model:
            raise ConfigError("an endpoint needs url (https://host/v1) and model (its name there)")
        self._config, self._key = config, read_key(config, environment)
        self._hidden = Hidden(self._key)
        self.name = config.name
        self._tell, self._is_told = tell, threading.Lock()

    def write(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Each answer as it comes; giving the iterator up ends the requests that are open."""
        work: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, _Outcome]] = queue.SimpleQueue()
        for place in range(len(prompts)):
            work.put(place)
        crew = _Crew(self._config, prompts, work, done, self._ask)
        succeeded, failed, forbidden = False, 0, 0
        try:
            for _ in prompts:
                place, outcome = done.get()
                forbidden = forbidden + 1 if outcome.forbidden else 0
                why = outcome.forbidden if forbidden == IN_A_ROW else outcome.hopeless
                if why and (forbidden or outcome.is_refused or not succeeded):
                    yield from _answered(done)
                    raise UserError(f"{why}. {GO_ON}")
                if not outcome.answer.fault:
                    succeeded, failed = True, 0
                failed += outcome.is_down
                if outcome.is_down and failed in (IN_A_ROW, len(prompts)):
                    raise UserError(self._is_down(failed, outcome.answer.fault))
                yield place, outcome.answer
        finally:
            crew.end()

    def _is_down(self, failed: int, fault: str) -> str:
        return (
            f"{self.name}: {failed} prompts in a row got no answer; the last: {fault}. See that the address,"
            f" the model's name and the key are right and that the server is up. {GO_ON}"
        )

    def _ask(self, prompt: Prompt, pause: Callable[[float], bool], stop: threading.Event) -> _Outcome:
        """A prompt, tried until it is answered, or has failed for good."""
        start, fault, is_down = time.monotonic(), "", False
        payload = json.dumps(self._body(prompt)).encode()
        for attempt in range(self._config.retries + 1):
            reply: Reply | None = None
            try:
                reply = post(
                    split_url(self._config.url + PATH),
                    payload,
                    self._headers(),
                    silence=self._config.silence or self._config.deadline,
                    deadline=self._config.deadline,
                    stop=stop,
                )
                outcome = self._read(reply, time.monotonic() - start)
                if outcome is not None:
                    return outcome
                fault = f"status {reply.status}: {problem_of(reply.body, self._hidden)}"
            except Unreachable as error:
                fault = self._hidden.shown(str(error))
            is_down = True
            wished = retry_after(reply.headers.get("retry-after", "")) if reply else None
            if attempt < self._config.retries and self._is_told.acquire(blocking=False):
                self._tell(f"{self.name}: {fault}; trying again, {self._config.retries} times at most")
            if attempt < self._config.retries and pause(pause_before(attempt, wished)):
                break
        seconds = time.monotonic() - start
        return _Outcome(Answer(fault=fault or "given up", seconds=seconds), is_down=is_down)

    def _read(self, reply: Reply, seconds: float) -> _Outcome | None:
        """What a reply means; None where it is worth another attempt."""
        if reply.status == 200:
            try:
                return _Outcome(answer_of(reply.body, self._hidden, seconds))
            except NoCompletion as error:
                return _Outcome(Answer(fault=str(error), seconds=seconds), is_down=True)
        if reply.status in RETRIED:
            return None
        says = problem_of(reply.body, self._hidden)
        if 300 <= reply.status < 400:
            hopeless = f"{self.name} answers {reply.status}, which leads elsewhere: name the address itself"
            return _Outcome(Answer(fault=f"status {reply.status}", seconds=seconds), hopeless=hopeless)
        fault = Answer(fault=f"status {reply.status}: {says}", seconds=seconds)
        why = f"{self.name} answers {reply.status}: {says}. {self._advice(reply)}"
        if reply.status in HOPELESS:
            return _Outcome(fault, hopeless=why, is_refused=reply.status in REFUSED)
        is_about_key = reply.status == 403 and not MODERATED.search(says)
        return _Outcome(fault, forbidden=why if is_about_key else "")

    def _advice(self, reply: Reply) -> str:
        key = f"the key in {self._config.key_from}" if self._key else "no key was sent (key_from)"
        if reply.status in (404, 405):
            return (
                "See that the address ends where /chat/completions begins, and that the model has this name"
            )
        return f"See that it may be used and that there is credit: {key}"

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", "Accept": "application/json", **key}

    def _body(self, prompt: Prompt) -> dict[str, Any]:
        made = (
            as_row(prompt.conversation, {}) | {"model": self._config.model} | sampling_body(prompt.sampling)
        )
        return {name: value for name, value in (made | self._config.body).items() if value is not None}


def _answered(done: queue.SimpleQueue[tuple[int, _Outcome]]) -> Iterator[tuple[int, Answer]]:
    """What came while the end was found out: it is paid, and must not be lost."""
    while not done.empty():
        place, outcome = done.get()
        if not outcome.answer.fault:
            yield place, outcome.answer


def sampling_body(sampling: Sampling) -> dict[str, Any]:
    """The settings as the protocol names them. What only some servers know is sent where it is set."""
    usual = Sampling()
    known = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
    named = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")
    said = asdict(sampling)
    extra = {name: said[name] for name in named if said[name] != getattr(usual, name)}
    stop = {"stop": list(sampling.stop)} if sampling.stop else {}
    return known | extra | stop


def pause_before(attempt: int, wished: float | None) -> float:
    """Seconds before the attempt after `attempt` (from 0): 1, 2, 4..., half of it by chance so that not all
    come back together; at least what the server wishes, and never over `LONGEST_WAIT`."""
    grown = min(2.0**attempt, LONGEST_WAIT)
    return min(max(grown * random.uniform(0.5, 1.0), wished or 0.0), LONGEST_WAIT)


def retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header, which has a number or a date; None where it has neither."""
    try:
        return max(0.0, float(text)) if text.strip()[:1].isdigit() else _until(text)
    except (ValueError, TypeError, OverflowError):
        return None


def _until(text: str) -> float | None:
    return max(0.0, parsedate_to_datetime(text).timestamp() - time.time()) if text else None


class _Crew:
    """Threads that take prompts from a queue until it is empty, or they are told to end."""

    def __init__(
        self,
        config: EndpointConfig,
        prompts: Sequence[Prompt],
        work: queue.SimpleQueue[int],
        done: queue.SimpleQueue[tuple[int, _Outcome]],
        ask: Callable[[Prompt, Callable[[float], bool], threading.Event], _Outcome],
    ) -> None:
        self._prompts, self._work, self._done, self._ask = prompts, work, done, ask
        self._stop = threading.Event()
        for _ in range(min(config.concurrency, len(prompts))):
            threading.Thread(target=self._take, daemon=True).start()

    def end(self) -> None:
        """Let nobody begin anything more, and close what is open."""
        self._stop.set()

    def _take(self) -> None:
        while not self._stop.is_set():
            try:
                place = self._work.get_nowait()
            except queue.Empty:
                return
            try:
                outcome = self._ask(self._prompts[place], self._stop.wait, self._stop)
            except Exception as error:  # whoever waits for this prompt must hear of it
                outcome = _Outcome(Answer(fault=f"{type(error).__name__} while asking"))
            self._done.put((place, outcome))
