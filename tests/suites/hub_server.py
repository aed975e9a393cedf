"""A Hub of a few repositories on this machine, as far as huggingface_hub asks for it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants, file_download, hf_api

LARGE = (".safetensors", ".bin", ".pth", ".pt")


@dataclass
class Repositories:
    """files: id -> path -> content. commits: id -> the commit of them. asked: paths of every request for content.

    cut: name of a file -> bytes after which its transfer breaks off, once. damaged: names of files that come with
    another content than is announced.
    """

    files: dict[str, dict[str, bytes]]
    commits: dict[str, str]
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)


@contextmanager
def serving(hub: Repositories):
    """The address of a running server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            path = unquote(urlsplit(self.path).path)
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
                self.describe(*found.groups())
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.send_file(*found.groups(), with_body)
            else:
                self.fail(404, "EntryNotFound")

        def known(self, repository, revision):
            if repository not in hub.files:
                self.fail(401, "RepoNotFound")
            elif repository in hub.gated:
                self.fail(403, "GatedRepo")
            elif revision not in (None, "main") and not hub.commits[repository].startswith(revision):
                self.fail(404, "RevisionNotFound")
            else:
                return True
            return False

        def describe(self, repository, revision):
            if not self.known(repository, revision):
                return
            siblings = []
            for name, content in hub.files[repository].items():
                entry = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
                if name.endswith(LARGE):
                    entry["lfs"] = {
                        "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1
                    }  # fmt: skip
                siblings.append(entry)
            said = json.dumps({"id": repository, "sha": hub.commits[repository], "siblings": siblings}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def send_file(self, repository, revision, name, with_body):
            if not self.known(repository, revision):
                return
            content = hub.files[repository].get(name)
            if content is None:
                self.fail(404, "EntryNotFound")
                return
            digest = hashlib.sha256 if name.endswith(LARGE) else hashlib.sha1
            tag = digest(content).hexdigest()
            given = self.headers.get("Range")
            if with_body:
                hub.asked.append((repository, name, given))
            begin = int(re.match(r"bytes=(\d+)", given)[1]) if given else 0
            body = content[begin:]
            if name in hub.damaged:
                body = b"\0" * len(body)
            self.send_response(206 if given else 200)
            self.send_header("X-Repo-Commit", hub.commits[repository])
            self.send_header("ETag", f'"{tag}"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(body)))
            if given:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if with_body:
                if begin == 0 and name in hub.cut:
                    self.wfile.write(body[: hub.cut.pop(name)])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()
                else:
                    self.wfile.write(body)

        def fail(self, code, reason):
            self.send_response(code)
            self.send_header("X-Error-Code", reason)
            self.send_header("X-Error-Message", reason)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ask(monkeypatch, address: str, cache: Path, offline: bool = False) -> None:
    """Let huggingface_hub ask this Hub and keep what comes in `cache`; it reads its variables when it is loaded."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    said = {"ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent), "HF_HUB_OFFLINE": offline}
    for module in (constants, file_download, hf_api):
        for name, value in {**said, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_DISABLE_XET": True}.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
