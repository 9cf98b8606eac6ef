"""A stand-in for the Hugging Face Hub on loopback, for huggingface_hub; it fails where it is told to."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".onnx", ".safetensors", ".bin", ".ckpt")
"""Endings of files that are kept outside git, by their SHA-256."""

ERRORS = {"missing": (404, "RepoNotFound"), "gated": (403, "GatedRepo"), "revision": (404, "RevisionNotFound")}


@dataclass
class Model:
    """A model's files. asked: those whose bytes were sent. gated: nobody may read it. cut, altered: files whose bytes
    are sent in part, or changed."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    cut: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    @property
    def commit(self) -> str:
        names = json.dumps({name: hashlib.sha1(content).hexdigest() for name, content in sorted(self.files.items())})
        return hashlib.sha1(names.encode()).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "rfilename": name, "size": len(content)}
        entry |= {"oid": git, "blobId": git}
        if name.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 130}
        return entry


class Hub:
    """The server. models: by OWNER/NAME. Use it as a context; `address` is its URL."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.uploaded: dict[str, bytes] = {}
        hub = self

        class Handler(Answers):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From here on connections are refused."""
        self._server.shutdown()
        self._server.server_close()


class Answers(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *_: object) -> None: ...

    def send(self, content: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_json(self, value: object) -> None:
        self.send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def refuse(self, kind: str) -> None:
        code, name = ERRORS[kind]
        self.send(b"", code, {"X-Error-Code": name, "X-Error-Message": name})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def model(self, name: str, revision: str | None) -> Model | None:
        model = self.state.models.get(name)
        if model is None or model.gated:
            self.refuse("missing" if model is None else "gated")
            return None
        if revision not in (None, "main", model.commit):
            self.refuse("revision")
            return None
        return model

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(.+))?", path):
            if model := self.model(*found.groups()):
                siblings = [model.entry(name) for name in model.files]
                self.send_json({"id": found[1], "sha": model.commit, "siblings": siblings, "private": model.private})
        elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/([^/]+)", path):
            if model := self.model(*found.groups()):
                self.send_json([model.entry(name) for name in model.files])
        elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            if model := self.model(found[1], found[2]):
                self.send_file(model, found[3])
        else:
            self.refuse("missing")

    do_HEAD = do_GET  # noqa: N815 # the base class calls it

    def send_file(self, model: Model, name: str) -> None:
        content, entry = model.files[name], model.entry(name)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        etag = f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"'
        headers = {"X-Repo-Commit": model.commit, "ETag": etag, "Content-Length": str(len(content) - start)}
        if self.command == "HEAD":
            self.send(b"", headers=headers)
            return
        model.asked.append(f"{name} from {start}" if start else name)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        sent = content[start:]
        if name in model.altered:
            sent = bytes([sent[0] ^ 1]) + sent[1:]
        if name in model.cut:
            model.cut.discard(name)  # once
            sent = sent[: len(sent) // 2]
        self.send(sent, 206 if start else 200, headers)

    def do_PUT(self) -> None:
        content = self.body()
        self.state.uploaded[hashlib.sha256(content).hexdigest()] = content
        self.send(b"")

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.body()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            self.state.models.setdefault(name, Model({}, private=asked["visibility"] == "private"))
            self.send_json({"url": f"{self.state.address}/{name}", "name": name})
        elif "/preupload/" in path:
            files = [
                {"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False}
                for name in (file["path"] for file in json.loads(body)["files"])
            ]
            self.send_json({"files": files})
        elif path.endswith("/objects/batch"):
            objects = [
                {**it, "actions": {"upload": {"href": f"{self.state.address}/upload/{it['oid']}"}}}
                for it in json.loads(body)["objects"]
            ]
            self.send_json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/(.+)", path):
            model = self.state.models[found[1]]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    model.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    model.files[value["path"]] = self.state.uploaded[value["oid"]]
            address = f"{self.state.address}/{found[1]}/commit/{model.commit}"
            self.send_json({"commitUrl": address, "commitOid": model.commit})
        else:
            self.refuse("missing")
