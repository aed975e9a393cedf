"""A small random suite as the bench measures it."""

from __future__ import annotations

import pytest

from maxbench.bench.cases import Subject
from maxbench.cli.command import compose_one
from maxbench.cli.subject import subject_of


@pytest.fixture(scope="session")
def subject(small_run, tmp_path_factory) -> Subject:
    """Two pictures a batch, two steps, on the processor."""
    cfg = compose_one([*small_run, "runtime.batch_size=2"], None)
    return subject_of(cfg, None, False, tmp_path_factory.mktemp("maps"))
