"""Who may talk to the server: checked before anything else, for every method and path.

A web page must not be able to reach a server on its reader's own machine. Listening on loopback alone
does not stop that (DNS rebinding; CVE-2024-28224 and its kin), so the Host header must name this
server exactly, port included, and a browser's Origin and Sec-Fetch-Site must not be foreign.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelwright.base.errors import ConfigError
from modelwright.server.errors import ApiError

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


OPEN_PATHS = ("/", "/health")
"""What is answered without a key. It must say nothing that a key protects."""
BODY_SECONDS = 30
"""How long a request's body may take to arrive."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_keys(file: Path) -> list[str]:
    """The API keys in a file, one a line; empty lines and those that begin with # do not count."""
    try:
        others_may_read = file.stat().st_mode & 0o004
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the API keys in {file} cannot be read: {error}") from error
    if others_may_read and os.name == "posix":
        raise ConfigError(
            f"{file} holds API keys and every user of this machine can read it: chmod o-r {file}"
        )
    keys = [line.strip() for line in lines]
    keys = [key for key in keys if key and not key.startswith("#")]
    if not keys:
        raise ConfigError(f"{file} holds no API key, expected one a line")
    return keys


@dataclass(frozen=True, slots=True)
class Access:
    """Who may talk to us: exact host names with port, exact foreign origins, and the keys if any."""

    hosts: frozenset[str]
    """What Host may say: our own names with port, and the names in the listed origins."""
    own_origins: frozenset[str]
    """What a page that we served ourselves would call itself."""
    origins: frozenset[str]
    """The listed ones."""
    api_keys: tuple[str, ...] = ()
    """Any one of them will do; none means that no key is asked for."""

    @classmethod
    def of(cls, host: str, port: int, api_keys: Sequence[str] = (), origins: Sequence[str] = ()) -> Access:
        """The rules for a server bound to `host` and `port`.

        Beyond loopback a key and an explicit origin are required: the origin names the address that
        clients will use, and without a key everybody in reach could use the model.
        """
        known = [_origin(origin) for origin in origins]
        if not is_loopback(host) and not (api_keys and known):
            missing = " and ".join(
                name for name, given in (("an API key", api_keys), ("an origin", known)) if not given
            )
            raise ConfigError(
                f"refusing to listen on {host}: that is reachable from other machines, and {missing} is not "
                "set. Keep to 127.0.0.1, or set both, e.g. --api-key ... --allow-origin https://models.example.com"
            )
        for number, key in enumerate(api_keys, 1):
            if len(key) < 16:
                raise ConfigError(f"API key {number} has {len(key)} characters, expected at least 16")
        names = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
        own = {f"{name}:{port}" for name in names} | (names if port == 80 else set())
        return cls(
            hosts=frozenset(own | {urlsplit(origin).netloc for origin in known}),
            own_origins=frozenset(f"http://{name}" for name in own),
            origins=frozenset(known),
            api_keys=tuple(api_keys),
        )

    def check_host(self, headers: Headers) -> None:
        """Refuse a Host header that is missing, doubled or not ours to the letter."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            raise ApiError(403, "this server does not answer to that Host name", code="host_not_allowed")

    def check_origin(self, headers: Headers) -> str | None:
        """Refuse what a foreign web page sends; the origin to allow in the answer, if it is a listed one."""
        origin = headers.get("origin")
        if origin is not None and origin in self.origins:
            return origin
        if (origin is not None and origin not in self.own_origins) or headers.get("sec-fetch-site") in (
            "cross-site",
            "same-site",
        ):
            raise ApiError(
                403,
                "requests from other web pages are refused; allow one by its exact origin when starting",
                code="origin_not_allowed",
            )
        return None

    def has_key(self, headers: Headers) -> bool:
        """Whether one of the keys came along, or none is asked for."""
        return not self.api_keys or bool(self.key_name(headers))

    def key_name(self, headers: Headers) -> str:
        """Which key came along, without telling it; "" where none did, or none is asked for."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # All are compared, so that the time taken does not tell which one was nearly right.
        right = [secrets.compare_digest(given.strip().encode(), key.encode()) for key in self.api_keys]
        return f"key {right.index(True) + 1}" if scheme.lower() == "bearer" and any(right) else ""

    def check_key(self, headers: Headers) -> None:
        """Refuse a missing or wrong key, where one is set."""
        if not self.has_key(headers):
            raise ApiError(
                401,
                "a valid API key is needed: Authorization: Bearer <key>",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _origin(origin: str) -> str:
    parts = urlsplit(origin)
    exact = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme not in ("http", "https") or not parts.netloc or origin != exact.lower() or "*" in origin:
        raise ConfigError(
            f"'{origin}' is not an exact origin, expected scheme://name[:port] in lower case, without a path"
        )
    return origin


class Guard:
    """The outermost ASGI layer: host, origin and key in, security headers out."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through or answer it at once."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"this server speaks HTTP only, not {scope['type']}")
        headers = Headers(scope=scope)
        allowed: str | None = None

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(SECURITY_HEADERS)
                if allowed is not None:
                    answer.update({"Access-Control-Allow-Origin": allowed, "Vary": "Origin"})
                    answer["Cross-Origin-Resource-Policy"] = "cross-origin"
            await send(message)

        try:
            self._access.check_host(headers)
            allowed = self._access.check_origin(headers)
            if allowed is not None and scope["method"] == "OPTIONS":
                await _preflight()(scope, receive, guarded)
                return
            if scope["path"] not in OPEN_PATHS:
                self._access.check_key(headers)
        except ApiError as error:
            await error.response()(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def _preflight() -> PlainTextResponse:
    """A browser asks what a page of a listed origin may send."""
    allow = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": "authorization, content-type",
        "Access-Control-Max-Age": "600",
    }
    return PlainTextResponse("", 204, allow)


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request, refused as soon as it is known to exceed `limit` bytes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "send JSON with Content-Type: application/json", code="unsupported_media_type")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) <= limit:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read_up_to(request, limit)
        except TimeoutError:
            raise ApiError(408, f"the request took over {BODY_SECONDS} s to arrive", code="timeout") from None
        if body is not None:
            return body
    # The rest is not read: the connection is closed instead.
    raise ApiError(
        413,
        f"the request is larger than {limit:,} bytes",
        code="request_too_large",
        headers={"Connection": "close"},
    )


async def _read_up_to(request: Request, limit: int) -> bytes | None:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            return None
    return bytes(body)
