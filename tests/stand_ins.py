"""Local servers with the part of Kaggle's and of the hub's interface that a download needs."""

import base64
import hashlib
import io
import itertools
import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from image_trees import FLOWERS, write_zip

TOKEN = "secret-token-5d1"  # noqa: S105 - the only one that these servers accept
KEY = base64.b64encode(f"someone:{TOKEN}".encode()).decode()

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, status, body=b"", kind="application/json", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


# --- answers of a hostile server: each takes the handler ------------------------------------------


def redirect(to, **headers):
    """Lead elsewhere; without an address, to the same one again."""
    return lambda handler: handler.answer(302, Location=to or handler.path, **headers)


def with_headers(body=b"", kind="application/json", **headers):
    """Answer with these bytes."""
    return lambda handler: handler.answer(200, body, kind, **headers)


def endless(start=b"", chunk=b" " * 65536, pause=0.0, kind="application/json", status=200):
    """Send chunks until the client closes the connection."""

    def send(handler):
        handler.close_connection = True
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("ETag", '"' + "5" * 40 + '"')
        handler.send_header("X-Repo-Commit", "c" * 40)
        if status // 100 == 3:
            handler.send_header("Location", "/")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        with suppress(OSError):  # the client has gone
            for each in itertools.chain([start] if start else [], itertools.repeat(chunk)):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(each), each))
                time.sleep(pause)

    return send


@contextmanager
def serve(handler):
    """Answer on this machine with a handler of requests; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve_kaggle(folder, files=FLOWERS, *, damaged=False, hostile=None):
    """Serve owner/flowers, version 3, and owner/private to those who have the token.

    ``hostile`` has another answer in place of some: a function of the handler for "GetDataset" or
    "DownloadDataset".
    """
    hostile = hostile or {}
    archive = write_zip(folder / "served.zip", files).read_bytes()
    archive = archive[: len(archive) // 2] if damaged else archive
    asked = []

    class Handler(_Quiet):
        def do_POST(self):
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(self.path.rpartition("/")[2])
            if asked[-1] in hostile:
                return hostile[asked[-1]](self)
            return self.honest(wanted)

        def do_GET(self):  # after a redirect
            return hostile["GET"](self)

        def honest(self, wanted):
            name = f"{wanted['ownerSlug']}/{wanted['datasetSlug']}"
            allowed = self.headers.get("Authorization") in {f"Bearer {TOKEN}", f"Basic {KEY}"}
            if name == "owner/private" and not allowed:
                self.answer(403, json.dumps({"code": 403, "message": "denied"}).encode())
            elif name not in {"owner/private", "owner/flowers"}:
                self.answer(404, json.dumps({"code": 404, "message": "not found"}).encode())
            elif asked[-1] == "GetDataset":
                self.answer(200, json.dumps({"currentVersionNumber": 3}).encode())
            else:
                self.answer(200, archive, "application/zip")

    with serve(Handler) as address:
        yield address, asked


def use_kaggle(monkeypatch, address, folder):
    """Make Kaggle's client use this server, without any credentials of the machine."""
    environment = pytest.importorskip("kagglesdk.kaggle_env")
    local = environment.KaggleEnv.LOCAL
    monkeypatch.setitem(environment._env_to_endpoint, local, address)
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE", "KAGGLE_CONFIG_DIR"):
        monkeypatch.setenv(name, str(folder / "home"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(folder / "kagglehub"))
    monkeypatch.setenv("NO_PROXY", "*")


def use_hub(monkeypatch, address, folder):
    """Make the hub's client use this server, without any token of the machine."""
    url = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(folder / "no-tokens"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


def git_name(content):
    """Return the name that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git's


class Repository:
    """Files by revision: ``{"main": {"data/train.parquet": b"..."}}``; a commit is a hash."""

    def __init__(self, revisions, refusal=None, trees=9):
        self.revisions = {
            hashlib.sha256(repr((name, *files)).encode()).hexdigest()[:40]: (name, files)
            for name, files in revisions.items()
        }
        self.refusal = refusal  # the X-Error-Code of a request without the token
        self.trees = trees  # how often the files are listed before the server fails

    def find(self, revision):
        for commit, (name, files) in self.revisions.items():
            if revision in {commit, name}:
                return commit, files
        return None, None

    def tree(self, files):
        self.trees -= 1
        if self.trees < 0:
            return 400, b""
        listed = [{"type": "file", "path": path, "size": len(content or b""),
                   "oid": git_name(content or b"")} for path, content in files.items()]  # fmt: skip
        return 200, json.dumps(listed).encode()

    def commit(self, name="main"):
        return self.find(name)[0]


def _asked_of_hub(path):
    if path == "/":
        return "ping"
    if not path.startswith("/api"):
        return "file"
    return "tree" if "/tree/" in path else "info"


@contextmanager
def serve_hub(repositories, hostile=None):
    """Serve repositories of datasets by name.

    ``hostile`` has another answer in place of some: a function of the handler for "ping", "info",
    "tree" or "file".
    """
    hostile = hostile or {}

    class Handler(_Quiet):
        def do_GET(self):
            path = self.path.partition("?")[0].replace("%2F", "/")
            what = _asked_of_hub(path)
            if what in hostile:
                return hostile[what](self)
            if path == "/":
                return self.answer(200)
            words = path.removeprefix("/api").strip("/").split("/")
            name = "/".join(words[1:3])
            repository = repositories.get(name)
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if repository is None or (repository.refusal and not allowed):
                code = "RepoNotFound" if repository is None else repository.refusal
                return self.answer(401, X_Error_Code=code)
            return self.of(repository, name, words[3:], path.startswith("/api"))

        def of(self, repository, name, words, is_api):
            kind, rest = (words or ["revision"])[0], "/".join(words[1:]) or "main"
            revision = rest if is_api else rest.partition("/")[0]
            commit, files = repository.find(revision)
            if files is None:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if kind == "tree":
                return self.answer(*repository.tree(files))
            if is_api:
                siblings = [{"rfilename": path} for path in files]
                answer = {"id": name, "sha": commit, "siblings": siblings}
                return self.answer(200, json.dumps(answer).encode())
            content = files[rest.partition("/")[2]]
            if content is None:
                return self.answer(403)
            tag = hashlib.sha256(content).hexdigest()
            return self.answer(200, content, "application/octet-stream", ETag=f'"{tag}"',
                               X_Repo_Commit=commit)  # fmt: skip

        do_HEAD = do_GET  # noqa: N815 - the library's name

    with serve(Handler) as address:
        yield address


def table(images, labels, classes=None, rows=2):
    """Return a Parquet file in the hub's form, with few rows in a group."""
    features = {"image": {"_type": "Image"}}
    if classes is not None:
        features["label"] = {"_type": "ClassLabel", "names": classes}
    return parquet({"image": structs(images), "label": labels}, features, rows)


def structs(images):
    """Return a column of images."""
    return pa.array([{"bytes": each, "path": f"{n}.png"} for n, each in enumerate(images)], STRUCT)


def parquet(columns, features, rows=2):
    """Return a Parquet file with the metadata that the hub's own library writes."""
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    target = io.BytesIO()
    made = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(made, target, row_group_size=rows)
    return target.getvalue()
