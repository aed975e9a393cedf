import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from maxbench.errors import UserError
from maxbench.report.runs import Results, find
from runs import as_written

KEPT = Path(__file__).parents[2] / "results" / "hed_depth"


def folders(place, *names):
    for name in names:
        (place / name).mkdir()
        (place / name / "metrics.csv").write_text("experiment\n")
    return place


def test_a_run_is_found_by_its_path_by_its_name_and_by_the_beginning_of_it(tmp_path):
    place = folders(tmp_path, "hed_depth-miniature-0a", "hed_depth_128-miniature-1b", "seg_depth-miniature-2c")
    assert find(["hed_depth-miniature-0a"], place) == [place / "hed_depth-miniature-0a"]
    assert find(["seg"], place) == [place / "seg_depth-miniature-2c"]
    assert find([str(tmp_path / "seg_depth-miniature-2c")], "elsewhere") == [tmp_path / "seg_depth-miniature-2c"]
    assert len(find([], place)) == 3


def test_an_experiments_name_does_not_mean_another_experiment_that_begins_so(tmp_path):
    place = folders(tmp_path, "hed_depth-miniature-0a", "hed_depth_128-miniature-1b")
    assert find(["hed_depth"], place) == [place / "hed_depth-miniature-0a"]


def test_a_name_of_several_runs_or_of_none_is_a_sentence(tmp_path):
    place = folders(tmp_path, "hed_depth-miniature-0a", "hed_depth-miniature-1b")
    with pytest.raises(UserError, match="means 2 runs; name one: hed_depth-miniature-0a, hed_depth-miniature-1b"):
        find(["hed_depth"], place)
    with pytest.raises(UserError, match=r"There is no run 'seg' .*there are hed_depth-miniature-0a"):
        find(["seg"], place)
    with pytest.raises(UserError, match="no finished run"):
        find([], tmp_path / "nowhere")


def test_a_run_that_is_not_finished_is_no_run_that_is_not_there(tmp_path):
    (tmp_path / "hed_depth-miniature-0a").mkdir()
    (tmp_path / "hed_depth-miniature-0a" / "maxbench-run.json").write_text("{}")
    with pytest.raises(UserError, match=r"'hed_depth' is not finished \(hed_depth-miniature-0a\)"):
        find(["hed_depth"], tmp_path)


def test_a_run_of_an_older_version_has_its_id_and_the_deltas_that_it_was_configured_with(tmp_path):
    metrics = Results(KEPT).metrics
    assert "delta" not in pd.read_csv(KEPT / "metrics.csv") and set(metrics.run) == {"hed_depth"}
    delta = metrics.drop_duplicates("method").set_index("method").delta
    assert delta["maxfusion"] == delta["outputs_only"] == 0.7 and delta.drop(["maxfusion", "outputs_only"]).isna().all()
    shutil.copytree(KEPT, tmp_path / "run")
    said = {"methods": [{"name": "maxfusion_tuned", "tuned": {"rule.delta": 0.5, "scale": 2}}, {"name": "sum"}]}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(said))
    assert Results(tmp_path / "run").metrics.query("method == 'maxfusion_tuned'").delta.eq(0.5).all()


def test_results_say_what_a_run_is_of():
    results = Results(KEPT)
    assert (results.id, results.experiment, results.suite, results.seeds) == (
        "hed_depth", "hed_depth", "miniature", (0,)
    )  # fmt: skip
    assert not results.is_pooled and results.samples is None and results.manifest is None
    assert {"joint", "hed_ssim"} <= set(results.metrics.metric) and "verdict" in results.differences


@pytest.mark.parametrize(
    ("name", "part"), [("metrics.csv", "metrics"), ("config.yaml", "config"), ("evaluation.json", "evaluation"),
                       ("samples.parquet", "samples"), ("manifest.json", "manifest"), ("tuning.csv", "tuning")]
)  # fmt: skip
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00damage", b"[1, 2]"])
def test_a_damaged_file_is_named(tmp_path, name, part, content):
    folder = tmp_path / "run"
    shutil.copytree(KEPT, folder)
    pd.DataFrame({"sample": ["a"]}).to_parquet(folder / "samples.parquet")
    (folder / name).write_bytes(content)
    if (name, content) in (("tuning.csv", b"[1, 2]"),):
        return  # a table of one strange column: who asks for its columns says so
    with pytest.raises(UserError, match=name):
        getattr(Results(folder), part)


def test_a_table_without_a_column_is_named(tmp_path):
    shutil.copytree(KEPT, tmp_path / "run")
    pd.DataFrame({"sample": ["a"]}).to_parquet(tmp_path / "run" / "samples.parquet")
    as_written(tmp_path / "run")
    with pytest.raises(UserError, match="has no column replicate"):
        _ = Results(tmp_path / "run").samples


def test_a_number_that_was_changed_reads_well_and_is_damage(tmp_path):
    folder = shutil.copytree(KEPT, tmp_path / "run")
    text = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(text.replace("0.8", "0.9", 1))
    with pytest.raises(UserError, match=r"metrics\.csv is damaged; run the experiment again"):
        _ = Results(folder).metrics
    (folder / "metrics.csv").write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"metrics\.csv is damaged"):
        _ = Results(folder).metrics
    (folder / "differences.csv").unlink()
    with pytest.raises(UserError, match=r"differences\.csv is missing"):
        _ = Results(folder).differences
    said = (folder / "evaluation.json").read_text()
    (folder / "evaluation.json").write_text(said.replace("q of", "Q of", 1).replace("true", "false", 1) + " ")
    with pytest.raises(UserError, match=r"evaluation\.json is damaged"):
        _ = Results(folder).evaluation


def test_tables_that_are_given_take_the_place_of_files():
    table = pd.DataFrame({"method": ["a"]})
    assert Results(KEPT, {"metrics.csv": table})._table("metrics.csv") is table
