"""A hostile server in place of the hub, met by the hub's own client.

Each attack ends in one DataError of two lines; nothing is written outside, nothing counts as
complete, and no token travels to another host.
"""

import gzip
import hashlib
import json
import time
import tracemalloc
from types import SimpleNamespace

import pytest

from image_trees import FLOWERS
from regraft.core import transfers
from regraft.data.sources import hub
from regraft.data.sources.registry import SourceOptions, open_source
from regraft.errors import DataError, DiskFullError, RegraftError
from stand_ins import (
    TOKEN,
    Repository,
    endless,
    git_name,
    redirect,
    serve_hub,
    table,
    use_hub,
    with_headers,
)

IMAGES = list(FLOWERS.values())
TRAIN = table(IMAGES, [0, 0, 1, 1], ["rose", "tulip"])
FILES = {"train.parquet": TRAIN}
COMMIT = Repository({"main": FILES}).commit()
NAME = "hf:owner/flowers"


@pytest.fixture
def met(tmp_path, monkeypatch):
    """Return the error of a dataset whose server is hostile, after the checks of all attacks."""
    monkeypatch.setattr(hub, "LARGEST_TEXTS", 1 << 20)
    monkeypatch.setattr(transfers, "LARGEST_TEXT", 1 << 19)

    def meet(files=FILES, **hostile):
        place = tmp_path / "inside" / "data"
        with serve_hub({"owner/flowers": Repository({"main": files})}, hostile) as address:
            use_hub(monkeypatch, address, tmp_path)
            monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "inside" / "cache"))
            monkeypatch.setenv("HF_TOKEN", TOKEN)
            start = time.monotonic()
            with pytest.raises(RegraftError) as caught:
                open_source(NAME, SourceOptions(place))
        assert time.monotonic() - start < 9
        error = caught.value
        assert isinstance(error, (DataError, DiskFullError))
        assert len(str(error).splitlines()) == 2
        assert len(str(error)) < 1000
        assert TOKEN not in str(error)
        assert not list(tmp_path.rglob(".complete"))
        assert not list(tmp_path.rglob("*.incomplete"))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 1 << 19
        assert {path.name for path in tmp_path.iterdir()} <= {"inside"}
        return error

    return meet


FTP, CLOSED = "ftp://127.0.0.1/a", "http://127.0.0.1:9/a"
LED = [(what, to) for what in ("info", "tree", "file") for to in ("file:///etc/passwd", FTP, None)]


@pytest.mark.parametrize(("what", "to"), [*LED, ("ping", FTP), ("ping", CLOSED), ("info", CLOSED)])
def test_redirects_lead_to_no_file_and_no_other_protocol_and_end(met, what, to):
    message = met(**{what: redirect(to)}).message
    assert message.startswith(f"{NAME} cannot be downloaded: ")
    assert "root:" not in message


@pytest.mark.parametrize("what", ["info", "tree", "file"])
@pytest.mark.parametrize("status", [200, 302, 404])
def test_an_answer_without_an_end_is_bounded_in_memory_and_on_the_disk(met, what, status):
    answer = endless(b"[", status=status)
    tracemalloc.start()
    try:
        error = met(**{what: answer})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "cannot be downloaded: " in error.message
    assert peak < 30 << 20  # bytes; without a bound it grows with time
    if status == 200:
        assert "the server sends more than " in error.message


def file_answer(body, **headers):
    """Answer for a file, as the hub does, whatever the body is."""
    return with_headers(body, ETag='"5"', X_Repo_Commit=COMMIT, **headers)


def short_of(promised):
    """Promise other bytes than are sent."""

    def send(handler):
        handler.close_connection = True
        handler.send_response(200)
        for name, value in (("ETag", '"5"'), ("X-Repo-Commit", COMMIT)):
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(promised))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(TRAIN)

    return send


OTHER = b"x" * len(TRAIN)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (file_answer(TRAIN[:-1]), "train.parquet arrived with other bytes than were listed"),
        (file_answer(TRAIN + b"x"), "train.parquet arrived with other bytes than were listed"),
        (file_answer(OTHER), "train.parquet arrived with other bytes than were listed"),
        (short_of(len(TRAIN) - 9), "train.parquet arrived with other bytes than were listed"),
        (file_answer(gzip.compress(b"0" * 9), Content_Encoding="gzip"), "sends it compressed"),
        (with_headers(TRAIN, ETag='"/tmp/x"', X_Repo_Commit=COMMIT), "the server's header ETag"),
        (with_headers(TRAIN, ETag='"5"', X_Repo_Commit="../x"), "the server's header X-Repo"),
        (with_headers(TRAIN, X_Linked_ETag='"a/../../b"'), "the server's header X-Linked-ETag"),
        (with_headers(TRAIN), "cannot be downloaded: "),
    ],
)  # fmt: skip
def test_a_file_that_is_not_the_listed_one_is_refused_and_removed(met, answer, reason):
    assert reason in met(file=answer).message


@pytest.mark.parametrize("what", ["info", "tree"])
def test_compressed_answers_are_refused_before_they_grow(met, what):
    bomb = gzip.compress(b"[" + b" " * (1 << 22))
    error = met(**{what: with_headers(bomb, Content_Encoding="gzip")})
    assert "the server sends it compressed, which was not asked for" in error.message


@pytest.mark.parametrize("what", ["info", "tree", "file"])
def test_an_answer_that_trickles_is_given_up(met, what, monkeypatch):
    """The client's own times begin again with every byte."""
    monkeypatch.setattr(transfers, "_PATIENCE", 0.2)
    error = met(**{what: endless(b"[", chunk=b" ", pause=0.02)})
    assert " bytes in 0 seconds" in error.message


def test_a_server_that_says_nothing_is_given_up(met, monkeypatch):
    """The client waits for ever for the list of files."""
    monkeypatch.setattr(transfers, "SILENCE", 0.1)
    without_pauses = SimpleNamespace(sleep=lambda _: None)  # the client asks six times
    monkeypatch.setattr("huggingface_hub.utils._http.time", without_pauses)
    assert "timed out" in met(tree=lambda _: time.sleep(0.3)).message


def entry(**changes):
    return {"type": "file", "path": "train.parquet", "size": len(TRAIN), "oid": "0" * 40, **changes}


def large(sha256, size=None):
    size = len(TRAIN) if size is None else size
    return entry(lfs={"oid": sha256, "size": size, "pointerSize": 9})


def listing(*entries):
    return with_headers(json.dumps(entries).encode())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (listing(entry(size=2**70)), f"{NAME}: the server lists a file 'train.parquet' of 118059"),
        (listing(entry(size=-1)), f"{NAME}: the server lists a file 'train.parquet' of -1 bytes"),
        (listing(entry(size="9")), f"{NAME}: the server lists a file 'train.parquet' of 9 bytes"),
        (listing(entry(size=None)), f"{NAME}: the server lists a file"),
        (listing(entry(path=[])), f"{NAME}: the server lists a file '[]' of "),
        (listing(entry(size=2**52)), f"the files of {NAME} need up to 4,503,599,627,370,496 bytes"),
        (listing(large("0" * 64)), "train.parquet arrived with other bytes than were listed"),
        (listing(*[entry(path=f"{n}") for n in range(50)]), "has more than 40 files and folders"),
        *[(with_headers(json.dumps(wrong).encode()), f"{NAME} cannot be downloaded: ")
          for wrong in (7, [7], [None], [[]], "a", {"a": 1}, [{"type": "file"}], [{}])],
        (with_headers(b"[" * 100_000), f"{NAME} cannot be downloaded: "),
        (with_headers(b"\xff\xfe"), f"{NAME} cannot be downloaded: "),
    ],
)  # fmt: skip
def test_lists_of_another_form_are_one_error(met, answer, message, monkeypatch):
    monkeypatch.setattr(hub, "MOST_FILES", 40)
    monkeypatch.setattr("regraft.data.sources.hub_listing.MOST_FILES", 40)
    assert message in met(tree=answer).message


@pytest.mark.parametrize(
    "answer",
    [7, [], None, "a", {}, {"id": "a", "sha": "../../x"}, {"id": "a", "sha": 7}, {"sha": ["a"]},
     {"id": "a", "sha": None}, {"id": "a", "sha": "A" * 40}, {"id": "a", "siblings": 7}],
)  # fmt: skip
def test_what_the_server_says_of_a_dataset_in_another_form_is_one_error(met, answer):
    message = met(info=with_headers(json.dumps(answer).encode())).message
    assert message.startswith(NAME)


OUTSIDE = ["../x.png", "/x.png", "C:x.png", "a/../../x.png", "..\\x.png", "a\0b.png", "a//../x.png"]
AWKWARD = ["a" * 5000 + ".png", "rose/1.png/2.png", "rose/" * 400 + "1.png", "ROSE/1.png"]


@pytest.mark.parametrize("name", OUTSIDE + AWKWARD)
def test_a_name_that_leads_out_or_is_impossible_writes_nothing_outside(name, tmp_path, monkeypatch):
    """The other files are read, or it is one error; also if the name is in a wanted folder."""
    place = tmp_path / "inside"
    files = {**FLOWERS, name: IMAGES[0], f"rose/{name}": IMAGES[0]}
    with serve_hub({"owner/flowers": Repository({"main": files})}) as address:
        use_hub(monkeypatch, address, tmp_path)
        monkeypatch.setenv("HF_HUB_CACHE", str(place / "cache"))
        try:
            source = open_source(NAME, SourceOptions(place / "data"))
        except DataError as error:
            assert len(str(error)) < 1000  # noqa: PT017 - one of two right ends
        else:
            assert {entry.id for entry in source.entries} >= set(FLOWERS)
    assert {path.name for path in tmp_path.iterdir()} <= {"inside"}


@pytest.mark.parametrize("what", ["info", "tree", "file"])
def test_a_token_does_not_travel_to_another_host(what, tmp_path, monkeypatch):
    seen = []

    def remember(handler):
        seen.append(handler.headers.get("Authorization"))
        handler.answer(404)

    repository = {"owner/flowers": Repository({"main": FILES})}
    catch_all = dict.fromkeys(("ping", "info", "tree", "file"), remember)
    with serve_hub({}, catch_all) as other:
        leading = redirect(f"{other}/a", ETag='"5"', X_Repo_Commit=COMMIT)
        with serve_hub(repository, {what: leading}) as address:
            use_hub(monkeypatch, address, tmp_path)
            monkeypatch.setenv("HF_TOKEN", TOKEN)
            with pytest.raises(DataError):
                open_source(NAME, SourceOptions(tmp_path))
    assert seen
    assert set(seen) == {None}


def test_a_large_file_is_compared_with_its_sha256(tmp_path, monkeypatch):
    whole = listing(large(hashlib.sha256(TRAIN).hexdigest()))
    with serve_hub({"owner/flowers": Repository({"main": FILES})}, {"tree": whole}) as address:
        use_hub(monkeypatch, address, tmp_path)
        assert len(open_source(NAME, SourceOptions(tmp_path)).entries) == len(IMAGES)
    assert git_name(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # Pro Git


def test_tags_of_lists_may_have_any_form(tmp_path, monkeypatch):
    """They are no names of files; the hub's are base64."""
    info = with_headers(json.dumps({"id": "a/b", "sha": COMMIT}).encode(), ETag='W/"2a-Hb5/+c="')
    with serve_hub({"owner/flowers": Repository({"main": FILES})}, {"info": info}) as address:
        use_hub(monkeypatch, address, tmp_path)
        assert len(open_source(NAME, SourceOptions(tmp_path)).entries) == len(IMAGES)
