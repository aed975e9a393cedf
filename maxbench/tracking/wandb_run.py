"""A run of Weights & Biases: beside the run's own files, in its folder, and on W&B's server where there is a login.

W&B's own messages are off: it would print its advice between a run's lines. What a user must know is one sentence.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import wandb
from PIL import Image

from maxbench.progress import Snapshot, say
from maxbench.store.files import file_digest, read_sealed, seal, write_atomically
from maxbench.tracking import contents
from maxbench.tracking.base import RUN, Subject, Tracker

OFFLINE, ONLINE, DISABLED = "offline", "online", "disabled"
OFTEN = 10.0  # seconds between two points of the progress of one work
REACH, BEGIN, END = 3.0, 60.0, 120.0
"""Seconds to wait for the server to answer, for a run to begin, and for what is left to be sent when it ends."""
LONGEST = 128  # characters of an id, a name and a group


class WandbTracker(Tracker):
    """Tells W&B of one subject. settings: `tracking` of the configuration, as conf/tracking/wandb.yaml has it."""

    def __init__(self, settings: Mapping[str, Any], subject: Subject):
        self.settings, self.subject = settings, subject
        self.home = subject.folder.absolute() / "wandb"
        self.told: dict[str, float] = {}  # work -> when its progress was last told
        self.lines: list[str] = []  # before there is a run
        self.started = time.monotonic()
        self.run: Any = None
        self.beginning = threading.RLock()  # progress is told from the thread that writes pictures, too

    def _begin(self) -> Any:
        """The run, which begins when there is something to tell: of a run that is finished already there is not."""
        with self.beginning:
            return self._begun()

    def _begun(self) -> Any:
        if self.run is None:
            mode, why = self._mode
            self.home.mkdir(parents=True, exist_ok=True)
            with self._at_home():
                try:
                    self.run = self._init(mode)
                except Exception as error:
                    if mode != ONLINE:
                        raise
                    mode, why = OFFLINE, f", since W&B answers: {' '.join(str(error).split())[:150]}"
                    self.run = self._init(mode)
            if mode == ONLINE:
                say(f"W&B: {self.run.url}")
            elif mode == OFFLINE:
                say(f"W&B: offline{why}; to send it later: wandb sync {_place(self.run)}")
            for line in self.lines:
                self.run.write_logs(line)
        return self.run

    @cached_property
    def _mode(self) -> tuple[str, str]:
        return _mode(self.settings.get("mode"))

    def _init(self, mode: str) -> Any:
        subject, settings = self.subject, self.settings
        stamp = subject.folder / "stamp.json"
        environment = json.loads(stamp.read_text())[-1] if stamp.is_file() else {}
        run = wandb.init(
            project=settings["project"],
            entity=settings.get("entity"),
            group=(settings.get("group") or subject.group)[:LONGEST],
            job_type=subject.kind,
            name=(settings.get("name") or subject.folder.name)[:LONGEST],
            id=run_id(subject.folder.name),
            tags=list(settings.get("tags") or ()),
            dir=str(subject.folder.absolute()),
            mode=mode,
            resume="allow"
            if mode == ONLINE
            else None,  # offline there is nobody to ask; the id says that it is one run
            reinit="create_new",  # the runs of a sweep, and a run of the caller's own, do not meet
            config={**_without_tracking(subject.config), "environment": environment},
            settings=_quiet(),
        )
        run.define_metric("progress/*", step_metric="progress/seconds")
        return run

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[None]:
        """Within it W&B keeps what it stages in the run's folder too, where `wandb sync` will look for it."""
        before = os.environ.get("WANDB_DATA_DIR")
        os.environ["WANDB_DATA_DIR"] = str(self.home / "data")
        try:
            yield
        finally:
            if before is None:
                del os.environ["WANDB_DATA_DIR"]
            else:
                os.environ["WANDB_DATA_DIR"] = before

    def heard(self, news: Snapshot | str) -> None:
        if isinstance(news, str):
            if self.run is None:
                self.lines.append(news)
            else:
                self.run.write_logs(news)
            return
        now, ended = time.monotonic(), news.done >= news.total - 1e-9
        if not ended and now - self.told.get(news.what, -OFTEN) < OFTEN:
            return
        self.told[news.what] = now
        own = {f"progress/{news.what}/{name}": number for name, number in news.figures.items()}
        share = {f"progress/{news.what}": news.done / max(news.total, 1e-9)}
        self._begin().log({**share, **own, "progress/seconds": now - self.started})

    def results(self) -> None:
        folder = self.subject.folder
        mark, said = self.home / "told.json", self._what()
        if self.run is None and read_sealed(mark) == said:
            return
        with self._at_home():
            run, known = self._begin(), contents.tables(folder).items()
            news: dict[str, Any] = {name: wandb.Table(dataframe=_of_one_type(table)) for name, table in known}
            news |= {name: wandb.Image(str(path)) for name, path in contents.pictures(folder).items()}
            if self.subject.kind == RUN and (found := contents.samples(folder, self.settings.get("pictures", 0))):
                rows = [[_cell(value) for value in row] for row in found.rows]
                news["samples"] = wandb.Table(columns=list(found.columns), data=rows)
            run.log(news)
            run.summary.update(contents.numbers(folder))
        write_atomically(mark, seal(said))

    def _what(self) -> dict[str, Any]:
        """What is told of results, digested."""
        files = contents.files(self.subject.folder)
        settings = {key: value for key, value in self.settings.items() if key != "tags"}
        return {"files": {path.name: file_digest(path) for path in files}, "settings": settings, "mode": self._mode[0]}

    def close(self, failed: bool) -> None:
        if self.run is not None:
            with self._at_home():
                self.run.finish(exit_code=int(failed))


def run_id(name: str) -> str:
    """The id of a run by its folder's name, which its fingerprint makes: in every invocation the same."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    if plain == name and len(name) <= LONGEST:
        return name
    return f"{plain[: LONGEST - 11]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def _mode(asked: str | None) -> tuple[str, str]:
    """Online, offline or disabled, and why it is offline where nobody asked for that."""
    asked = asked or os.environ.get("WANDB_MODE")
    if asked in (OFFLINE, DISABLED, "dryrun"):
        return (DISABLED if asked == DISABLED else OFFLINE), ""
    host = os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url
    if not _has_login(host):
        return OFFLINE, ", since there is no login (`wandb login` makes one)"
    if not _answers(host):
        return OFFLINE, f", since {host} does not answer"
    return ONLINE, ""


def _has_login(host: str) -> bool:
    """Whether there is a key or a token for the server; nobody is asked for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from wandb.sdk.lib.wbauth import read_netrc_auth

    return bool(wandb.setup().settings.api_key or read_netrc_auth(host=host))


def _answers(host: str) -> bool:
    """Whether the server can be reached; a proxy is believed to reach it."""
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    place = urlsplit(host)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname or "", port), REACH).close()
    except OSError:
        return False
    return True


def _quiet() -> wandb.Settings:
    """Settings under which W&B prints nothing, takes no code, and waits for no server for ever."""
    asked = {
        "silent": True, "quiet": True, "console": "off", "disable_git": True, "disable_code": True, "save_code": False,
        "disable_job_creation": True, "init_timeout": BEGIN, "finish_timeout": END, "x_save_requirements": False,
    }  # fmt: skip
    return wandb.Settings(**{name: value for name, value in asked.items() if name in wandb.Settings.model_fields})


def _without_tracking(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "tracking"}


def _of_one_type(table: pd.DataFrame) -> pd.DataFrame:
    """A table that W&B takes: numbers as they are, and texts in columns that have both."""
    return table.apply(
        lambda column: (
            column
            if column.map(lambda value: value is None or isinstance(value, int | float)).all()
            else column.map(lambda value: None if value is None else str(value))
        )
    )


def _cell(value: Any) -> Any:
    if not isinstance(value, Image.Image):
        return value
    return wandb.Image(value, file_type="png" if max(value.size) < contents.SIDE else "jpg")


def _place(run: Any) -> Path:
    """The folder that `wandb sync` takes."""
    return Path(run.dir).parent
