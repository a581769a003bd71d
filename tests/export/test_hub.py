"""Upload to the Hugging Face Hub with the real client, to a local fake of the Hub."""

import base64
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from flowertune.errors import ExportError
from flowertune.export import hub

REPO = "someone/flowers"


class _Hub(BaseHTTPRequestHandler):
    """Answers the requests with which the client creates a repository and commits to it."""

    created: list[dict[str, Any]]
    files: dict[str, bytes]
    forbids: bool

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        where = self.path.split("?")[0]
        assert self.headers["Authorization"] == "Bearer hf_stand_in"
        if self.forbids:
            self._answer({"error": "no right to write there"}, 403)
        elif where == "/api/repos/create":
            self.created.append(json.loads(body))
            self._answer({"url": f"{self._address}/{REPO}"})
        elif where == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif where == f"/api/models/{REPO}/preupload/main":
            asked = json.loads(body)["files"]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer({"files": [{"path": file["path"], **mode} for file in asked]})
        elif where == f"/api/models/{REPO}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            commit = f"{self._address}/{REPO}/commit/{'0' * 40}"
            self._answer({"commitUrl": commit, "commitOid": "0" * 40})
        else:
            self._answer({"error": f"no {where}"}, 404)

    def do_GET(self) -> None:
        self._answer({"error": "not found"}, 404)

    @property
    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    """A fake Hub for this process, with a token."""
    handler = type("Hub", (_Hub,), {"created": [], "files": {}, "forbids": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "an export"
    made.mkdir()
    (made / "README.md").write_text("---\nlibrary_name: pytorch\n---\n# flowers\n")
    (made / "model.pt2").write_bytes(bytes(range(256)))
    return made


def test_an_export_is_uploaded_to_a_private_repository(stand_in: type[_Hub], folder: Path) -> None:
    hub.check(REPO)
    assert hub.push(folder, REPO).endswith(REPO)
    check_arrived(stand_in, folder)


def check_arrived(stand_in: type[_Hub], folder: Path) -> None:
    (created,) = stand_in.created
    assert (created["organization"], created["name"]) == ("someone", "flowers")
    assert created.get("visibility") == "private" or created.get("private") is True
    assert stand_in.files == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_after_a_failed_upload_the_error_names_the_command_that_uploads_the_export(
    stand_in: type[_Hub], folder: Path
) -> None:
    stand_in.forbids = True
    with pytest.raises(ExportError) as caught:
        hub.push(folder, REPO)
    message = str(caught.value)
    assert message.startswith(f"could not push to {REPO}: ")
    assert "\n" not in message
    assert (folder / "model.pt2").exists()

    stand_in.forbids = False
    _, command = message.split("upload it with: ")
    program, *words = shlex.split(command)
    address = huggingface_hub.constants.ENDPOINT
    said = subprocess.run(
        [Path(sys.executable).with_name(program), *words],
        env={**os.environ, "HF_ENDPOINT": address}, capture_output=True, text=True,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    check_arrived(stand_in, folder)


def test_an_invalid_name_and_a_missing_token_are_refused(
    refusal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "hf auth login, or set HF_TOKEN" in refusal(lambda: hub.check(REPO))
    assert "a/b/c" in refusal(lambda: hub.check("a/b/c"))
