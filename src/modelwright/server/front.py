"""What `/` answers: what this server is, which model it serves, and where to send requests.

It needs no key, so that a browser gets an answer; the model's name is left out unless the key came along.
"""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

ABOUT = "Modelwright: a language model behind OpenAI's HTTP interface"
ENDPOINTS = {
    "POST /v1/chat/completions": "answer a conversation",
    "POST /v1/completions": "continue a text",
    "GET /v1/models": "which model is served",
    "GET /health": "whether it is at work",
}


def front(request: Request, model: str | None) -> Response:
    """A page for who asks for HTML, JSON for all others. `model` is None for who may not know it."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_page(model))
    known = {"model": model} if model else {"needs": "an API key: Authorization: Bearer <key>"}
    return JSONResponse({"about": ABOUT, **known, "endpoints": ENDPOINTS})


def _page(model: str | None) -> str:
    """HTML that needs no style and no script: the security headers allow neither."""
    name = f"Model: <b>{escape(model)}</b>" if model else "Requests need an API key."
    rows = "\n".join(f"<li><code>{what}</code>: {does}</li>" for what, does in ENDPOINTS.items())
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Modelwright</title>\n'
        f"<h1>{escape(ABOUT)}</h1>\n<p>{name}</p>\n"
        "<p>Clients of OpenAI's interface take this address and <code>/v1</code> as their base URL.</p>\n"
        f"<ul>\n{rows}\n</ul>\n</html>\n"
    )
