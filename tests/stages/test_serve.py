"""The verb: from a folder to a server that answers."""

from __future__ import annotations

import threading

import httpx
import pytest

from modelwright.base.errors import ConfigError, UserError
from modelwright.server.listen import Server, bind
from modelwright.stages.serve import serve


def test_a_folder_is_served(tiny_model, monkeypatch):
    servers: list[Server] = []
    begin = Server.run
    monkeypatch.setattr(Server, "run", lambda self, **k: (servers.append(self), begin(self, **k)))
    ready, addresses = threading.Event(), []

    def on_ready(address: str) -> None:
        addresses.append(address)
        ready.set()

    settings = {"port": 0, "name": "mine", "on_ready": on_ready}
    thread = threading.Thread(target=serve, args=(tiny_model(),), kwargs=settings)
    thread.start()
    assert ready.wait(60)
    try:
        assert httpx.get(f"{addresses[0]}/models").json()["data"][0]["id"] == "mine"
    finally:
        servers[0].should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def test_refusals(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="refusing to listen"):
        serve(tiny_model(), "0.0.0.0", 0)
    with pytest.raises(UserError, match="does not exist"):
        serve(tmp_path / "absent", port=0)
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"):
            serve(tiny_model(), port=taken.getsockname()[1])
