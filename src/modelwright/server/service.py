"""What the routes share: the models, the state of the server, and what a handler gets to work with."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from starlette.requests import Request

from modelwright.base.errors import UserError, did_you_mean
from modelwright.server.errors import ApiError
from modelwright.server.guards import Access, read_body
from modelwright.server.models import Lease, Served, Source
from modelwright.server.protocol import Asked, parse
from modelwright.server.replies import Envelope

LOG = logging.getLogger("modelwright.server")
A = TypeVar("A", bound=Asked)


class Service:
    """The models of a server and whether it takes requests."""

    def __init__(
        self,
        sources: Sequence[Source],
        access: Access,
        *,
        queue_limit: int,
        body_limit: int,
        share_cache: bool,
        on_loaded: Callable[[Exception | None], None],
    ) -> None:
        self.access, self.body_limit, self.share_cache = access, body_limit, share_cache
        self.models = {source.name: Served(source, queue_limit, _report) for source in sources}
        self.draining = False
        self._on_loaded = on_loaded
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> str:
        """What /health says: loading, ok, draining, or stopped where an engine's thread has died."""
        generations = [served.generation for served in self.models.values()]
        if self.draining:
            return "draining"
        if not all(generations):
            return "loading"
        return "ok" if all(g.worker.alive for g in generations if g) else "stopped"

    def start(self) -> None:
        """Load all models, one after the other, while /health answers that they are being loaded."""
        self._go_on(self._load_all())

    async def stop(self) -> None:
        """Give everything up that is not finished."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for served in self.models.values():
            await served.stop()

    def drain(self) -> None:
        """Take no new requests: those that are open come to their end."""
        self.draining = True

    def cut_off(self) -> None:
        """Take no new requests, and end those that are open with an error (safe in a signal's handler)."""
        self.drain()
        for served in self.models.values():
            if served.generation is not None:
                served.generation.worker.end()

    def reload(self, name: str) -> None:
        """Read a model's folder again, in the background."""
        served = self.models.get(name)
        if served is None:
            known = did_you_mean(name[:80], self.models)
            message = f"no model '{name[:80]}' was named when this server was started.{known}"
            raise ApiError(404, message, code="model_not_found", param="model")
        self.check_open()
        if served.loading:
            raise ApiError(409, f"the model '{name}' is being loaded already", code="loading")
        served.loading = True
        self._go_on(self._reload(served))

    def check_open(self) -> None:
        """Refuse work when the server is on its way out."""
        if self.draining:
            headers = {"Retry-After": "5", "Connection": "close"}
            raise ApiError(503, "the server is being stopped", code="draining", headers=headers)

    def find(self, name: str | None) -> tuple[Served, str, str | None]:
        """(what answers, its name, the adapter meant) for the name in a request."""
        known = {alias: (served, alias, a) for served in self.models.values() for alias, a in served.names()}
        if name is None and len(self.models) == 1:
            return next(iter(known.values()))
        if name is None:
            message = f"'model' is missing, and this server has several: {', '.join(known)}"
            raise ApiError(400, message, code="invalid_value", param="model")
        if name not in known:
            for served in self.models.values():
                served.check_loaded()  # the name may be an adapter's that is not known yet
            raise ApiError(
                404,
                f"the model '{name[:80]}' is not served here.{did_you_mean(name[:80], known)}",
                code="model_not_found",
                param="model",
            )
        return known[name]

    async def _load_all(self) -> None:
        try:
            for served in self.models.values():
                await served.load()
        except Exception as error:
            self._on_loaded(error)
        else:
            self._on_loaded(None)

    async def _reload(self, served: Served) -> None:
        try:
            await served.load()
        except Exception as error:
            fault = None if isinstance(error, UserError) else error  # ours, which a traceback helps to find
            LOG.error("the model '%s' was not reloaded: %s", served.name, error, exc_info=fault)

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Call:
    """One request in its handler's hands, and what it holds on to until its answer is sent."""

    def __init__(self, service: Service, request: Request, held: ExitStack) -> None:
        self.service, self.request = service, request
        self._held = held

    async def read(self, kind: type[A]) -> A:
        """The body as a request of some kind, or an error that says what is wrong with it."""
        self.service.check_open()
        return parse(kind, await read_body(self.request, self.service.body_limit))

    def lease(self, name: str | None, salt: str | None = None) -> Lease:
        """The model meant, held until the answer is sent. In its cache, prompts are shared by those with one
        key, unless the server lets all share, and with one `salt` of the client's own."""
        served, alias, adapter = self.service.find(name)
        service = self.service
        key = "" if service.share_cache else service.access.key_name(self.request.headers)
        return self._held.enter_context(served.lease(alias, adapter, f"{key} {salt or ''}"))

    @staticmethod
    def envelope(prefix: str, model: Lease) -> Envelope:
        """A fresh answer's id, time and model."""
        fingerprint = model.generation.loaded.fingerprint
        return Envelope(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), model.name, fingerprint)


def _report(error: Exception) -> None:
    LOG.error("the engine failed", exc_info=error)
