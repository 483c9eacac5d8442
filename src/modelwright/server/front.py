"""What `/` answers: what this server is, which models it serves, and where to send requests.

It needs no key, so that a browser gets an answer; the models' names are left out unless a key came along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

ABOUT = "Modelwright: language models behind OpenAI's HTTP interface"


def front(request: Request, endpoints: Mapping[str, str], models: Sequence[str] | None) -> Response:
    """A page for who asks for HTML, JSON for all others. `models` is None for who may not know them."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_page(endpoints, models))
    known = {"needs": "an API key: Authorization: Bearer <key>"} if models is None else {"models": models}
    return JSONResponse({"about": ABOUT, **known, "endpoints": endpoints})


def _page(endpoints: Mapping[str, str], models: Sequence[str] | None) -> str:
    """HTML that needs no style and no script: the security headers allow neither."""
    names = ", ".join(f"<b>{escape(name)}</b>" for name in models or ())
    rows = "\n".join(
        f"<li><code>{escape(what)}</code>: {escape(does)}</li>" for what, does in endpoints.items()
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Modelwright</title>\n'
        f"<h1>{escape(ABOUT)}</h1>\n"
        f"<p>{'Requests need an API key.' if models is None else f'Models: {names}'}</p>\n"
        "<p>Clients of OpenAI's interface take this address and <code>/v1</code> as their base URL.</p>\n"
        f"<ul>\n{rows}\n</ul>\n</html>\n"
    )
