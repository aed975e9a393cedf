"""The ledger of a sweep, whatever its members have left."""

import pandas as pd
import pytest

from maxbench.report.sweeps import FINISHED, Entry, ledger, page, summary
from report.frames import metrics_of

SCORES = {"joint": {"none": 0.0, "sum": 0.7, "rule": 0.9}, "clip_score": {"none": 20.0, "sum": 21.0, "rule": 22.0}}


@pytest.mark.parametrize("old", ["without roles", "without counts", "damaged", "none"])
def test_a_member_that_says_less_does_not_hide_the_others(tmp_path, old):
    metrics = metrics_of(SCORES)
    tables = {"good": metrics, "without roles": metrics.drop(columns="role"), "without counts": metrics.assign(n=None)}
    entries = []
    for job, name in enumerate(("good", old)):
        (tmp_path / name).mkdir()
        if name in tables:
            tables[name].to_csv(tmp_path / name / "metrics.csv", index=False)
            (tmp_path / name / "config.yaml").write_text("name: made")
        elif name == "damaged":
            (tmp_path / name / "metrics.csv").write_bytes(b"\xff\xfe")
        entries.append(Entry(job, [f"seed={job}"], FINISHED, str(tmp_path / name)))
    table = ledger(entries)
    good = table[table.job == 0]
    assert list(good.method) == ["rule", "sum", "none"] and list(good.n) == [40] * 3
    assert set(table.job) == {0, 1} and set(table[table.job == 1].folder) == {str(tmp_path / old)}
    rows = table[table.job == 1]
    assert (list(rows.method) == ["rule", "sum", "none"]) is (old == "without counts")
    assert old == "without counts" or (len(rows) == 1 and pd.isna(rows.method.item()))
    assert f"job 1, finished: {tmp_path / old}" in summary(table, ["seed"]) and "rule" in page(table, ["seed"], "swept")
