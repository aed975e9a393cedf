"""`maxbench list` on real runs."""

import io

import pandas as pd

from maxbench.__main__ import main
from runs import all_runs


def test_runs_of_several_seeds_and_their_pooled_result_are_listed_and_found(seeded, capsys):
    assert main(["list", "--output-dir", str(seeded)]) == 0
    text = capsys.readouterr().out
    for folder in all_runs(seeded):
        assert folder.name in text
    assert main(["list", "--output-dir", str(seeded), "--csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), dtype=str).set_index("seed")
    assert set(table.index) == {"0", "1", "0+1"} and set(table.state) == {"finished"}
    assert table.name["1"] == "hed_depth:seed=1" and table.samples["0+1"] == "4"
    assert main(["tables", "hed_depth:seed=1", "--output-dir", str(seeded)]) == 0
    assert table.run["1"] in capsys.readouterr().out


def test_a_folder_without_runs_and_no_folder_are_sentences(tmp_path, capsys):
    assert main(["list", "--output-dir", str(tmp_path)]) == 0
    assert "There is no run in" in capsys.readouterr().out
    assert main(["list", "--output-dir", str(tmp_path / "x")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_a_finished_run_is_scored_again_by_its_name(seeded, capsys):
    assert main(["evaluate", "hed_depth:seed=0", "--output-dir", str(seeded)]) == 0
    assert "0 made" in capsys.readouterr().out
    assert main(["evaluate", "nothing", "--output-dir", str(seeded)]) == 2
    assert "There is no run 'nothing'" in capsys.readouterr().err
