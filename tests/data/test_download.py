"""COCO from a server on this machine: whole, broken off and gone on with, damaged, and every failure one sentence."""

import hashlib
import io
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.photographs import PICTURES as PHOTOGRAPHS
from data.photographs import write_photographs
from maxbench import __main__, progress
from maxbench.cli.coco import coco
from maxbench.data import download
from maxbench.data.coco import coco_images
from maxbench.data.download import ANNOTATIONS, PICTURES, fetch_coco
from maxbench.errors import UserError


class Server(ThreadingHTTPServer):
    """Serves files with ranges, and fails as it is told.

    files: path -> content. asked: (path, range) of every request. answers: what to do with the next requests, a number
    of bytes after which the connection breaks, a status, or the name of a misbehaviour; honest where none is left.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.answers = {}, [], []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        pass  # the client has gone


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        answer = server.answers.pop(0) if server.answers else None
        content = server.files.get(self.path)
        if isinstance(answer, tuple):
            return self.send_error(answer[0])
        if content is None:
            return self.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        if answer == "no ranges":
            start = 0
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if answer == "other place" else start
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if answer != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = content[start:]
        if answer == "slow":
            for place in range(0, len(sent), 50_000):
                self.wfile.write(sent[place : place + 50_000])
                time.sleep(0.1)
        else:
            self.wfile.write(sent[:answer] if isinstance(answer, int) else sent)

    def log_message(self, *_):
        pass


Coco = namedtuple("Coco", "server annotations pictures")


def zipped(members):
    """A zip file of {name: content}; a name may be a ZipInfo."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def described(archive, content, **more):
    return replace(archive, size=len(content), md5=hashlib.md5(content).hexdigest(), **more)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Both archives, of photographs."""
    root = write_photographs(tmp_path_factory.mktemp("photographs") / "coco")
    pictures = {f"val2017/{path.name}": path.read_bytes() for path in sorted((root / "val2017").iterdir())}
    annotations = {f"annotations/{path.name}": path.read_bytes() for path in (root / "annotations").iterdir()}
    annotations |= {"annotations/captions_train2017.json": b"{}", "annotations/person_keypoints_val2017.json": b"{}"}
    return zipped({"val2017/": b"", **pictures}), zipped(annotations)


@pytest.fixture
def published(archives, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setattr(progress, "EVERY", 0)
    pictures, annotations = archives
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        server.files = {f"/{PICTURES.path}": pictures, f"/{ANNOTATIONS.path}": annotations}
        yield Coco(server, described(ANNOTATIONS, annotations), described(PICTURES, pictures, count=len(PHOTOGRAPHS)))
        server.shutdown()
        thread.join()


def fetch(published, root, pictures=None):
    return fetch_coco(root, published.server.address, published.annotations, pictures or published.pictures)


def is_whole(root):
    images = coco_images(root, calibration_share=0)
    assert len(images) == len(PHOTOGRAPHS)
    for image in images.ids:
        for instance in images.picture(image).instances:
            images.mask(instance)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.parent != root / "val2017")
    return names == [
        "annotations",
        "annotations/captions_val2017.json",
        "annotations/instances_val2017.json",
        "val2017",
    ]


def test_everything_is_fetched_once(published, tmp_path, capsys):
    root = tmp_path / "deep" / "coco"
    assert fetch(published, root) == ["annotations_trainval2017.zip", "val2017.zip"]
    assert is_whole(root)
    said = capsys.readouterr().err
    assert "to fetch, " in said and " GB free in " in said and "val2017.zip: " in said and "MB/s" in said
    count = len(published.server.asked)
    assert fetch(published, root) == [] and len(published.server.asked) == count == 2


def test_what_is_there_stays_as_it_is(published, tmp_path):
    root = write_photographs(tmp_path / "coco")
    (root / "val2017" / "more.txt").write_text("of somebody")
    (root / "annotations" / "captions_val2017.json").unlink()
    (root / "annotations" / "stuff_val2017.json").write_text("of somebody")
    before = (root / "annotations" / "instances_val2017.json").stat().st_mtime_ns
    assert fetch(published, root) == ["annotations_trainval2017.zip"]
    assert (root / "annotations" / "instances_val2017.json").stat().st_mtime_ns == before
    assert (root / "annotations" / "stuff_val2017.json").exists() and (root / "val2017" / "more.txt").exists()
    assert [path for path, _ in published.server.asked] == [f"/{ANNOTATIONS.path}"]


@pytest.mark.parametrize("answers", [[None, 100_000, 200_000], [700], [None, 0, 30_000, 0, 0, 0]])
def test_a_connection_that_breaks_is_taken_up_again(answers, published, tmp_path):
    published.server.answers = list(answers)
    fetch(published, tmp_path)
    assert is_whole(tmp_path) and not published.server.answers
    assert any(asked for _, asked in published.server.asked)


def test_a_transfer_that_stops_is_gone_on_with_by_the_next_call(published, tmp_path):
    published.server.answers = [None, 100_000, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"stopped at 100,000 of [\d,]+ bytes \(.*\); run the same command again"):
        fetch(published, tmp_path)
    assert (tmp_path / ".download" / "val2017.zip.part").stat().st_size == 100_000
    assert not (tmp_path / "val2017").exists() and (tmp_path / "annotations").exists()
    published.server.asked.clear()
    fetch(published, tmp_path)
    assert published.server.asked == [(f"/{PICTURES.path}", "bytes=100000-")] and is_whole(tmp_path)


@pytest.mark.parametrize("answer", ["no ranges", "no length"])
def test_a_server_that_cannot_begin_in_the_middle_begins_anew(answer, published, tmp_path):
    published.server.answers = [None, 100_000, answer]
    fetch(published, tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.processes
def test_a_killed_process_loses_nothing(published, tmp_path):
    """SIGKILL while a picture archive is on its way; the next call goes on, and the half-unpacked is made anew."""
    published.server.answers = [None, "slow"]
    code = (
        "from maxbench.data.download import *\nfrom pathlib import Path\n"
        f"fetch_coco(Path({str(tmp_path)!r}), {published.server.address!r}, {published.annotations!r}, "
        f"{published.pictures!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    partial = tmp_path / ".download" / "val2017.zip.part"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    size = partial.stat().st_size
    assert 0 < size < published.pictures.size
    (tmp_path / ".download" / "val2017.zip.unpacked" / "val2017").mkdir(parents=True)
    (tmp_path / ".download" / "val2017.zip.unpacked" / "val2017" / "half.jpg").write_text("half")
    fetch(published, tmp_path)
    assert published.server.asked[-1] == (f"/{PICTURES.path}", f"bytes={size}-")
    assert is_whole(tmp_path) and not (tmp_path / "val2017" / "half.jpg").exists()


def test_two_processes_do_not_write_one_file(published, tmp_path):
    with download._staging(tmp_path), pytest.raises(UserError, match="Another process is fetching COCO"):
        fetch(published, tmp_path)
    fetch(published, tmp_path)
    assert is_whole(tmp_path)


def test_a_server_that_recovers_is_waited_for(published, tmp_path):
    published.server.answers = [(503,), (429,), None, (500,)]
    fetch(published, tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (
            [(404,)],
            r"the server answers 404 Not Found; add --from with another address, or put annotations_trainval2017",
        ),
        ([(403,)], "the server answers 403 Forbidden"),
        ([(503,)] * 4, r"stopped at 0 of [\d,]+ bytes \(the server answers 503 Service Unavailable\)"),
        ([700, "other place"], "is sent from another place than was asked for"),
    ],
)
def test_what_a_server_refuses_is_one_sentence(answers, sentence, published, tmp_path):
    published.server.answers = answers
    with pytest.raises(UserError, match=sentence):
        fetch(published, tmp_path)
    assert not (tmp_path / "annotations").exists()


def test_no_server_and_no_address_are_one_sentence(published, tmp_path):
    with Server() as gone:
        address = gone.address
    with pytest.raises(UserError, match=r"stopped at 0 of .* \(.*refused"):
        fetch_coco(tmp_path, address)
    with pytest.raises(UserError, match="--from is 'file:///etc'; give an address that begins with http"):
        fetch_coco(tmp_path, "file:///etc")


def test_another_file_under_its_name_is_one_sentence(published, tmp_path):
    published.server.files[f"/{PICTURES.path}"] = b"<html>log in first</html>"
    with pytest.raises(UserError, match=r"has 25 bytes and COCO's has [\d,]+: it is not that file"):
        fetch(published, tmp_path)
    changed = bytearray(zipped({"x": b"y"}).ljust(published.pictures.size, b"\0"))
    published.server.files[f"/{PICTURES.path}"] = bytes(changed)
    with pytest.raises(UserError, match=r"has the MD5 [0-9a-f]{32} and COCO's has .*; it was removed: run the same"):
        fetch(published, tmp_path)
    assert not list((tmp_path / ".download").glob("val2017*")) and not (tmp_path / "val2017").exists()


def test_archives_of_another_program_are_used_and_kept(archives, published, tmp_path):
    (tmp_path / "val2017.zip").write_bytes(archives[0])
    fetch(published, tmp_path)
    assert [path for path, _ in published.server.asked] == [f"/{ANNOTATIONS.path}"]
    assert (tmp_path / "val2017.zip").read_bytes() == archives[0] and len(list((tmp_path / "val2017").iterdir())) == 18
    shutil.rmtree(tmp_path / "val2017")
    (tmp_path / "val2017.zip").write_bytes(archives[0][:-1])
    with pytest.raises(UserError, match=r"val2017\.zip has .* bytes and COCO's .*; move it away, or fetch it"):
        fetch(published, tmp_path)


def test_pictures_that_are_missing_are_counted(published, tmp_path):
    root = write_photographs(tmp_path / "coco")
    (root / "val2017" / f"{285:012d}.jpg").unlink()
    with pytest.raises(UserError, match=r"val2017 lacks 1 of the 18 pictures that .* lists \(000000000285\.jpg\)"):
        fetch(published, root)


# --- disk -----------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_known_before(published, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(
        UserError, match=r"COCO needs 1\.10 GB and .* has 0\.00 GB free; free some space or set data\.ro"
    ):
        fetch(published, tmp_path)
    assert not published.server.asked


def test_a_disk_that_takes_no_more_is_one_sentence_and_loses_nothing(published, tmp_path):
    """The system's own limit on the size of a file, in the place of a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"is full or allows no larger file; free some space or set data\.root="):
            fetch(published, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 0 < (tmp_path / ".download" / "val2017.zip.part").stat().st_size <= 200_000
    fetch(published, tmp_path)
    assert is_whole(tmp_path)


def test_a_folder_that_is_a_file_is_one_sentence(published, tmp_path):
    (tmp_path / "coco").write_text("no folder")
    with pytest.raises(UserError, match=r"Cannot write to .*coco.*; set data\.root="):
        fetch(published, tmp_path / "coco")


# --- archives that are not what they should be ----------------------------------------------------------------


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


PICTURE = f"val2017/{1:012d}.jpg"


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({PICTURE: b"x", "../evil.jpg": b"x"}, "member '../evil.jpg' that leads out of the folder"),
        ({PICTURE: b"x", "/tmp/evil.jpg": b"x"}, "leads out of the folder"),
        ({PICTURE: b"x", "val2017/../../evil.jpg": b"x"}, "leads out of the folder"),
        ({PICTURE: b"x", "C:\\evil.jpg": b"x"}, "leads out of the folder"),
        ({link(PICTURE): b"/etc/passwd"}, "is a link or another special file"),
        ({PICTURE: b"\0" * 3_000_000}, "would unpack to 3,000,000 bytes, and 1,000,000 are the most"),
        ({PICTURE: b"x", f"val2017/{2:012d}.jpg": b"x"}, "has 2 of the files that are wanted and COCO's has 1"),
        ({"readme": b"x"}, "has 0 of the files"),
    ],
)
def test_an_archive_with_anything_wrong_unpacks_nothing(members, sentence, published, tmp_path):
    content = zipped(members)
    published.server.files[f"/{PICTURES.path}"] = content
    root = tmp_path / "inner" / "coco"
    with pytest.raises(UserError, match=re.escape(sentence)):
        fetch(published, root, pictures=described(PICTURES, content, count=1, most=1_000_000))
    assert not (root / "val2017").exists() and not list(tmp_path.rglob("*evil*")) and not list(root.rglob("*.jpg"))


@pytest.mark.parametrize("damage", ["no zip", "content", "size", "encrypted"])
def test_a_damaged_archive_is_one_sentence(damage, published, tmp_path):
    content = bytearray(zipped({PICTURE: bytes(range(256)) * 40}))
    central = content.rindex(b"PK\x01\x02")
    if damage == "no zip":
        content = bytearray(b"no zip")
    elif damage == "content":
        content[content.index(b"val2017/") + len(PICTURE) + 20] ^= 255
    elif damage == "size":  # the list says less than there is: no more than it says is unpacked
        content[central + 24 : central + 28] = (100).to_bytes(4, "little")
    else:
        content[central + 8] |= 1
        content[6] |= 1
    published.server.files[f"/{PICTURES.path}"] = bytes(content)
    with pytest.raises(UserError, match=r"val2017\.zip was damaged \(.*\) and is removed; run the same command again"):
        fetch(published, tmp_path, pictures=described(PICTURES, bytes(content), count=1, most=1_000_000))
    assert not (tmp_path / "val2017").exists() and not list((tmp_path / ".download").glob("*.zip"))


# --- the command ----------------------------------------------------------------------------------------------


def test_the_command_takes_a_copy_that_is_there_as_it_is(tmp_path, capsys):
    root = write_photographs(tmp_path / "data" / "coco")
    assert __main__.main(["data", "coco", f"data.root={root}"]) == 0
    assert f"COCO val2017: 18 pictures in {root}, there already, taken as it is" in capsys.readouterr().out
    assert __main__.main(["data", "coco", f"data_dir={tmp_path / 'data'}"]) == 0
    assert __main__.main(["data", "--data-dir", str(tmp_path / "data")]) == 0
    assert "18 images" in capsys.readouterr().out


def test_the_command_fetches_from_a_mirror(published, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fetch_coco, "__defaults__", (download.ADDRESS, published.annotations, published.pictures))
    words = ["data", "coco", "--from", published.server.address + "/", f"data.root={tmp_path}"]
    assert __main__.main(words) == 0
    assert "fetched annotations_trainval2017.zip and val2017.zip" in capsys.readouterr().out and is_whole(tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["root=x"], "'root=x' is no setting of `data coco`; write data.root=DIR (did you mean 'data.root'?)"),
        (["somewhere"], "'somewhere' is no setting"),
        (["data.root="], "'data.root=' is no setting"),
        (["--form", "x"], "nrecognized arguments: --form"),
        (["--from"], "expected one argument"),
        (["--from", "ftp://x"], "--from is 'ftp://x'"),
    ],
)
def test_mistakes_in_the_command_are_one_sentence(words, sentence, capsys):
    assert __main__.main(["data", "coco", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1


def test_help_and_names(capsys):
    assert coco(["--help"]) == 0 and "data.root=DIR" in capsys.readouterr().out
    assert __main__.main(["data", "cocoo"]) == 2
    assert "did you mean 'coco'?" in capsys.readouterr().err
