"""The verb: from folders to a server that answers, until it is told to go."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch

from modelwright.base.device import Device, choose
from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.cli import main
from modelwright.formats.huggingface import load_model
from modelwright.formats.peft import save_adapter
from modelwright.model.adapters import Adapter, LowRank
from modelwright.server.guards import read_keys
from modelwright.server.listen import Server, bind
from modelwright.stages.serve import adapters_of, named, serve

ASK = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}


@contextmanager
def serving(monkeypatch, models, **settings) -> Iterator[str]:
    """The address of what `serve` serves, in a thread that ends with the block."""
    servers: list[Server] = []
    begin = Server.run
    monkeypatch.setattr(Server, "run", lambda self, **k: (servers.append(self), begin(self, **k)))
    ready, addresses = threading.Event(), []

    def on_ready(address: str, chosen: Device) -> None:
        assert chosen == choose(settings.get("device", "auto"), settings.get("dtype", "auto"))
        addresses.append(address)
        ready.set()

    thread = threading.Thread(
        target=serve, args=(models,), kwargs={"port": 0, "on_ready": on_ready, **settings}
    )
    thread.start()
    try:
        assert ready.wait(60)
        yield addresses[0]
    finally:
        servers[0].should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def test_folders_are_served_by_name(tiny_model, monkeypatch):
    with serving(monkeypatch, [f"one={tiny_model()}", f"two={tiny_model('llama')}"]) as url:
        assert [card["id"] for card in httpx.get(f"{url}/models").json()["data"]] == ["one", "two"]
        texts = [
            httpx.post(f"{url}/chat/completions", json=ASK | {"model": name}).json()["choices"][0]["message"]
            for name in ("one", "two")
        ]
        assert texts[0] != texts[1]


def test_a_run_of_another_version_is_served(tiny_model, monkeypatch, tmp_path):
    """Its manifest has settings that we do not know, and lacks some that we do."""
    stage = tmp_path / "old" / "finetune"
    shutil.copytree(tiny_model(), stage / "model")
    stated = {"id": "0123456789abcdef", "role": "sft", "stage": "finetune", "novel": {"setting": 1}}
    (stage / "manifest.json").write_text(json.dumps(stated), encoding="utf-8")
    with serving(monkeypatch, stage.parent) as url:
        [card] = httpx.get(f"{url}/models").json()["data"]
        assert (card["id"], card["fingerprint"]) == ("old", "0123456789ab")
    (stage / "manifest.json").write_text('["no manifest"]', encoding="utf-8")
    with pytest.raises(DamagedFile, match="states no role and id"):
        serve([stage.parent], port=0)


def test_folders_without_a_manifest_are_told_apart_by_what_they_hold(tiny_model, monkeypatch, tmp_path):
    copied = shutil.copytree(tiny_model(), tmp_path / "copy")
    folders = [f"one={tiny_model()}", f"same={copied}", f"other={tiny_model('llama')}"]
    with serving(monkeypatch, folders) as url:
        ask = ASK | {"max_tokens": 1}
        one, same, other = (
            httpx.post(f"{url}/chat/completions", json=ask | {"model": name}).json()["system_fingerprint"]
            for name in ("one", "same", "other")
        )
    assert one == same != other and re.fullmatch("[0-9a-f]{12}", one)


def test_a_server_in_a_scripts_background_hears_of_an_interrupt(monkeypatch):
    """Shells start what ends in & with SIGINT ignored."""
    heard = []
    stage = SimpleNamespace(serve=lambda *_, **__: heard.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr("modelwright.life.stage_module", lambda name: stage)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main(["serve", "anything"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.default_int_handler]


@pytest.mark.parametrize("wish", ["ngram", "draft"])
def test_guesses_change_no_text(tiny_model, monkeypatch, wish):
    folder = tiny_model()
    ask = {"prompt": "The capital of France is Paris. The capital of", "max_tokens": 24, "temperature": 0}
    texts = []
    for settings in ({}, {"speculate": "ngram" if wish == "ngram" else str(folder), "guesses": 3}):
        with serving(monkeypatch, folder, **settings) as url:
            texts.append(httpx.post(f"{url}/completions", json=ask).json()["choices"][0]["text"])
            counted = httpx.get(f"{url.removesuffix('v1')}metrics").text
    assert texts[0] == texts[1]
    [drafted] = re.findall(r"spec_decode_num_draft_tokens_total{.*} (\d+)", counted)
    assert int(drafted) > 0
    with pytest.raises(UserError, match="does not exist"):
        serve([folder], port=0, speculate="absent")
    with pytest.raises(UserError, match="add --speculate"):
        serve([folder], port=0, guesses=4)


def test_a_reload_takes_what_the_folder_holds_now(tiny_model, monkeypatch):
    folder, other = tiny_model(), tiny_model("llama")
    with serving(monkeypatch, [folder], name="mine") as url, httpx.Client() as http:

        def said() -> str:
            answer = http.post(f"{url}/chat/completions", json=ASK | {"logprobs": True}).json()
            return str([entry["logprob"] for entry in answer["choices"][0]["logprobs"]["content"]])

        def reload() -> dict:
            assert http.post(f"{url.removesuffix('v1')}reload", json={"model": "mine"}).status_code == 202
            while (card := http.get(f"{url}/models/mine").json())["reloading"]:
                pass
            return card

        before = said()
        for file in other.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        assert said() == before
        assert reload()["reload_error"] is None
        after = said()
        assert after != before
        (folder / "model.safetensors").write_bytes(b"damaged")
        assert reload()["reload_error"]
        assert said() == after


def test_names(tiny_model, tmp_path):
    model = tiny_model()
    assert named([model]) == {model.name: model}
    assert named([model], "mine") == named([f"mine={model}"]) == {"mine": model}
    with pytest.raises(ConfigError, match="two models are called"):
        named([f"a={model}", f"a={model}"])
    with pytest.raises(ConfigError, match="NAME=PATH"):
        named([model, tiny_model("llama")], "mine")


def test_adapters_answer_by_name(tiny_model, tmp_path, monkeypatch):
    """To clients an adapter is a model; without it, the model is itself."""
    folder = tiny_model()
    generator = torch.Generator().manual_seed(3)
    low_rank = LowRank(
        torch.randn(4, 64, generator=generator), torch.randn(64, 4, generator=generator), scale=0.5
    )
    adapter = Adapter({"model.layers.0.self_attn.q_proj": low_rank})
    save_adapter(tmp_path / "lora", adapter, load_model(folder))
    settings = {"name": "base", "adapters": [f"tuned={tmp_path / 'lora'}"]}
    with serving(monkeypatch, folder, **settings) as url, httpx.Client() as http:

        def said(model: str) -> tuple:
            answer = http.post(
                f"{url}/chat/completions", json=ASK | {"model": model, "logprobs": True}
            ).json()
            entries = answer["choices"][0]["logprobs"]["content"]
            return answer["model"], tuple(entry["logprob"] for entry in entries)

        cards = http.get(f"{url}/models").json()["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [("base", None), ("tuned", "base")]
        assert said("base")[0] == "base" and said("tuned")[0] == "tuned"
        assert said("base")[1] != said("tuned")[1]
        refused = http.post(f"{url}/embeddings", json={"model": "tuned", "input": "x"})
        assert refused.status_code == 400
        scored = {"model": "tuned", "prompt": "x", "echo": True, "logprobs": 1}
        assert http.post(f"{url}/completions", json=scored).json()["error"]["param"] == "logprobs"


def test_names_of_adapters():
    assert adapters_of(["a=x", "b=y"], ["m"]) == {"m": {"a": Path("x"), "b": Path("y")}}
    assert adapters_of(["n:a=x"], ["m", "n"]) == {"m": {}, "n": {"a": Path("x")}}
    for wrong, message in {
        "a": "NAME=PATH",
        "=x": "NAME=PATH",
        "m=x": "taken",
        "o:a=x": "no model 'o'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            adapters_of([wrong], ["m"])
    with pytest.raises(ConfigError, match="MODEL:NAME=PATH"):
        adapters_of(["a=x"], ["m", "n"])


def test_refusals(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="refusing to listen"):
        serve([tiny_model()], "0.0.0.0", 0)
    with pytest.raises(UserError, match="does not exist"):
        serve([tmp_path / "absent"], port=0)
    damaged = tiny_model()
    (damaged / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="truncated"):
        serve([damaged], port=0)
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"):
            serve([tiny_model()], port=taken.getsockname()[1])


def test_keys_come_from_a_file_too(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{'a' * 20}\n\n  {'b' * 20}  \n")
    file.chmod(0o600)
    assert read_keys(file) == ["a" * 20, "b" * 20]
    if os.name == "posix":
        file.chmod(0o600 | stat.S_IROTH)
        with pytest.raises(ConfigError, match="chmod o-r"):
            read_keys(file)
    file.chmod(0o600)
    file.write_text("# none\n")
    with pytest.raises(ConfigError, match="holds no API key"):
        read_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent")


def test_sigterm_lets_open_answers_end_and_exits_0(tiny_model):
    """The command itself, in a process of its own, with a key from the environment."""
    command = [sys.executable, "-m", "modelwright", "serve", f"mine={tiny_model()}", "--port", "0"]
    keys = {"MODELWRIGHT_API_KEY": f"{'k' * 20} {'l' * 20}"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **keys}) as process:
        assert process.stderr is not None
        try:
            lines = [process.stderr.readline() for _ in range(3)]
            assert lines[0].startswith("loading mine from ") and " s to load" in lines[1]
            line = lines[-1]
            assert "serving mine=" in line and re.search(
                r" on \w+, \d+ threads?, (float32|bfloat16) ", line
            ), line
            url = line.split(" at ")[1].split(" ")[0]
            headers = {"authorization": f"Bearer {'l' * 20}"}
            ask = {"prompt": "Paris", "max_tokens": 100, "stream": True}
            with httpx.stream("POST", f"{url}/completions", json=ask, headers=headers) as stream:
                lines = stream.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            assert process.wait(30) == 0
        finally:
            process.kill()
