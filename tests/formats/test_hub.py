"""Names on the hub, against a hub of our own: a server with the few answers that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download, hf_api

from modelwright.base.errors import UserError
from modelwright.formats.hub import resolve
from modelwright.formats.huggingface import load_model
from modelwright.formats.stored import weight_files

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves the folders under `root` as repositories, in one revision."""

    root: Path
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _reply(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        self.asked.append(path)
        parts = path.removeprefix("api/models/").split("/")
        folder = self.root.joinpath(*parts[:2])
        if not folder.is_dir():
            return self._missing("RepoNotFound")
        if path.startswith("api/models/"):
            if parts[2:3] in (["revision"], ["tree"]) and parts[3] not in ("main", COMMIT, "v2"):
                return self._missing("RevisionNotFound")
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
            if parts[2:3] == ["tree"]:
                rows = [{"type": "file", "path": n, "size": 1, "oid": "0" * 40} for n in names]
                return self._reply(json.dumps(rows).encode(), Content_Type="application/json")
            said = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            return self._reply(json.dumps(said).encode(), Content_Type="application/json")
        file = folder.joinpath(*parts[4:])
        if not file.is_file():
            return self._missing("EntryNotFound")
        content = file.read_bytes()
        mark = hashlib.sha256(content).hexdigest()
        return self._reply(content, ETag=f'"{mark}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder whose org/name folders are repositories."""
    Hub.root, Hub.asked = tmp_path / "hub", []
    Hub.root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for module in (constants, hf_api, file_download):
        if hasattr(module, "ENDPOINT"):
            monkeypatch.setattr(module, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield Hub.root
    server.shutdown()
    server.server_close()
    thread.join()


def test_weights_and_descriptions_are_fetched_and_nothing_else(
    served: Path, tiny_model: Callable[..., Path]
) -> None:
    repository = Path(shutil.copytree(tiny_model("llama"), served / "some" / "model"))
    for name in ("modeling.py", "pytorch_model.bin", "original.safetensors", "image.png"):
        (repository / name).write_text("no")
    (repository / "README.md").write_text("---\nlicense: mit\n---")
    for source in ("some/model", "some/model@v2"):
        folder = resolve(source)
        assert {file.name for file in folder.iterdir()} == {
            "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
            "tokenizer_config.json", "chat_template.jinja", "README.md",
        }  # fmt: skip
    assert load_model(folder).config.architecture == "llama"
    assert not [path for path in Hub.asked if path.endswith((".py", ".bin", ".png"))]


def test_a_repository_with_one_gguf_file_gives_that_file(served: Path) -> None:
    (served / "some" / "small").mkdir(parents=True)
    (served / "some" / "small" / "model.gguf").write_bytes(b"GGUF")
    assert resolve("some/small").name == "model.gguf"
    (served / "some" / "small" / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="2 GGUF files"):
        resolve("some/small")


def test_what_cannot_be_had_is_said(served: Path, tmp_path: Path) -> None:
    (served / "some" / "pickle").mkdir(parents=True)
    (served / "some" / "pickle" / "pytorch_model.bin").write_bytes(b"no")
    with pytest.raises(UserError, match="pickled weights can run code"):
        resolve("some/pickle")
    with pytest.raises(UserError, match=r"nobody/nothing is no path here and could not be fetched"):
        resolve("nobody/nothing")
    with pytest.raises(UserError, match="RevisionNotFound"):
        resolve("some/pickle@v9")
    with pytest.raises(UserError, match="is no name on the hub either"):
        resolve(tmp_path / "absent")
    assert resolve(tmp_path) == tmp_path


def test_shards_in_a_folder_are_refused_in_words(served: Path) -> None:
    (served / "some" / "deep" / "weights").mkdir(parents=True)
    places = {"weight_map": {"a": "weights/model-1.safetensors"}}
    (served / "some" / "deep" / "model.safetensors.index.json").write_text(json.dumps(places))
    (served / "some" / "deep" / "weights" / "model-1.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"no safetensors beside its config\.json"):
        resolve("some/deep")


def test_a_whole_file_is_read_and_not_the_index_beside_it(
    served: Path, tiny_model: Callable[..., Path]
) -> None:
    repository = Path(shutil.copytree(tiny_model("llama"), served / "some" / "both"))
    places = {"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}
    (repository / "model.safetensors.index.json").write_text(json.dumps(places))
    folder = resolve("some/both")
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]
    load_model(folder)


def test_a_hub_that_does_not_answer_is_an_error_in_words(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)  # the client tries again, in 23 seconds
    with pytest.raises(UserError, match=r"could not be fetched from the hub \(Connect"):
        resolve("some/model")
    assert waited


def test_without_a_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="Without a network, give the folder"):
        resolve("some/model")
