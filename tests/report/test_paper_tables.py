"""The paper's tables from runs made by hand, and the numbers that a user gives."""

import pytest
import yaml

from maxbench.errors import UserError
from maxbench.report.paper import EXAMPLE, ITEMS, ORIENTATION, PAPER, PaperTable, Published, read_published
from maxbench.report.runs import Results
from report.frames import differences_of, metrics_of
from report.latex import read

ITEM = {item.key: item for item in ITEMS}
BOTH = {
    ("hed_ssim", "hed"): {"none": 0.2, "single/hed": 0.8, "sum": 0.7, "maxfusion": 0.75, "gated_sum": 0.6},
    ("depth_rmse", "depth"): {"none": 30, "single/hed": 20, "sum": 7, "maxfusion": 6, "gated_sum": 8},
    "clip_score": {"none": 80, "single/hed": 79, "sum": 78, "maxfusion": 81, "gated_sum": 77},
    "fd_clip": {"none": 9, "single/hed": 8, "sum": 7, "maxfusion": 6.5, "gated_sum": 7.5},
    "joint": {"none": 0, "single/hed": 0.1, "sum": 0.8, "maxfusion": 0.7, "gated_sum": 0.6},
}  # fmt: skip


def run_of(place, name, scores=BOTH, **columns):
    folder = place / f"{name}-none-0a"
    folder.mkdir()
    metrics_of(scores, experiment=name, **columns).to_csv(folder / "metrics.csv", index=False)
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": name, "seed": 0}))
    return Results(folder)


def rows(text):
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def test_rows_are_the_papers_first_then_the_harness_s(tmp_path):
    table = PaperTable(ITEM["tables_2_3"], {"hed_depth": run_of(tmp_path, "hed_depth")})
    head, _, *own = rows(table.markdown())
    assert head == ["conditions", "method", "n", "FD-CLIP ↓", "CLIP ↑", "HED SSIM ↑", "depth RMSE ↓", "joint ↑"]
    assert [row[1] for row in own] == [
        "SPADE", "PITI", "Multi-T2I-Adapter (multi_t2i_adapter)", "Multi-ControlNet (sum)", "MaxFusion (maxfusion)",
        "none", "single/hed", "gated_sum",
    ]  # fmt: skip
    assert own[0][2:] == ["-"] * 6 and own[4][3] == "6.50 [6.40, 6.60]" and {row[0] for row in own} == {"HED + Depth"}
    contradictory = PaperTable(
        ITEM["table_1"], {"contradictory_hed_depth": run_of(tmp_path, "contradictory_hed_depth")}
    )
    assert "SPADE" not in contradictory.markdown()


def test_adapters_come_from_their_own_run_without_a_joint_score(tmp_path):
    scores = {key: {**own, "multi_t2i_adapter": 0.5} for key, own in BOTH.items()}
    runs = {"hed_depth": run_of(tmp_path, "hed_depth"), "adapters_hed_depth": run_of(tmp_path, "adapters", scores)}
    row = next(row for row in rows(PaperTable(ITEM["tables_2_3"], runs).markdown()) if "T2I" in row[1])
    assert row[5] == "0.500 [0.400, 0.600]" and row[-1] == "-"


def test_a_table_without_its_runs_is_empty(tmp_path):
    only_adapters = {"adapters_hed_depth": run_of(tmp_path, "adapters_hed_depth")}
    assert PaperTable(ITEM["tables_2_3"], only_adapters).is_empty
    assert not PaperTable(ITEM["fig_10"], {"conditioning_ablation": only_adapters["adapters_hed_depth"]}).is_empty


def test_published_numbers_stand_beside_ours_in_a_column_of_their_own(tmp_path):
    published = [
        Published("hed_depth", "SPADE", "fid", 12.346, "Table 2"),
        Published("hed_depth", "maxfusion", "clip_score", 30.5),
        Published("hed_depth", "Another", "clip_score", 29.0), Published("seg_depth", "maxfusion", "cmmd", 1.0),
    ]  # fmt: skip
    table = PaperTable(ITEM["tables_2_3"], {"hed_depth": run_of(tmp_path, "hed_depth")}, published)
    head, _, *own = rows(table.markdown())
    by = {row[1]: dict(zip(head, row, strict=True)) for row in own}
    ours = by["MaxFusion (maxfusion)"]
    assert ours["CLIP ↑, published"] == "30.50" and ours["CLIP ↑"] == "81.00 [80.90, 81.10]"
    assert by["SPADE"]["FID ↓, published"] == "12.35" and by["Another"]["CLIP ↑, published"] == "29.00"
    assert by["Multi-ControlNet (sum)"]["CLIP ↑, published"] == "-"
    tidy = {(row["method"], row["metric"]): row for row in table.tidy()}
    assert tidy["SPADE", "fid"]["published"] == 12.346 and tidy["SPADE", "fid"]["source"] == "Table 2"
    assert tidy["SPADE", "fid"]["value"] is None and tidy["maxfusion", "clip_score"]["value"] == 81


def test_our_own_numbers_are_never_in_a_published_column(tmp_path):
    table = PaperTable(ITEM["tables_2_3"], {"hed_depth": run_of(tmp_path, "hed_depth")})
    assert "published" not in table.markdown() and all(row["published"] is None for row in table.tidy())
    figures = {part for part in ORIENTATION.replace(",", " ").split() if part.startswith("0.") and len(part) == 6}
    assert len(figures) >= 10 and not any(each in table.markdown() for each in figures)


def test_latex_sets_off_the_best_fusion_rule_of_each_run(tmp_path):
    runs = {key: run_of(tmp_path, key) for key in ("hed_depth", "seg_depth")}
    source = PaperTable(ITEM["tables_2_3"], runs).latex("100% of it.")
    assert source.count("\\midrule") == 2  # below the headings, and between the two runs
    cells, _ = read(source)
    head = cells[0]
    for name, best, second in (("joint", "sum", "maxfusion"), ("depth RMSE", "maxfusion", "sum")):
        place = next(n for n, title in enumerate(head) if title.startswith(name))
        for mark, method in ((r"\textbf{", best), (r"\underline{", second)):
            assert [f"({method})" in row[1] for row in cells[1:] if row[place].startswith(mark)] == [True, True]


def test_a_column_that_shows_nothing_is_named_and_nobody_is_set_off_in_it(tmp_path):
    run = run_of(tmp_path, "hed_depth")
    tested = [("maxfusion", "sum", "joint", -0.1, "worse"), ("maxfusion", "sum", "clip_score", 3.0, "not shown")]
    differences_of(tested).to_csv(run.folder / "differences.csv", index=False)
    table = PaperTable(ITEM["tables_2_3"], {"hed_depth": Results(run.folder)})
    assert "no difference of a fusion rule from a baseline is shown in CLIP; do not rank" in table.markdown()
    cells, _ = read(table.latex("."))
    place = next(n for n, title in enumerate(cells[0]) if title.startswith("CLIP"))
    assert not any(row[place].startswith("\\") for row in cells[1:])
    assert any(row[-1].startswith("\\textbf") for row in cells[1:])


def test_an_ablation_is_in_the_order_of_what_is_added(tmp_path):
    scores = {"joint": {"none": 0.0, "single/hed": 0.4, "single/depth": 0.5, "maxfusion": 0.8}}
    run = run_of(tmp_path, "conditioning_ablation", scores)
    table = PaperTable(ITEM["fig_10"], {"conditioning_ablation": run})
    assert [row[1] for row in rows(table.markdown())[2:]] == [
        "none", "single/hed", "single/depth", "MaxFusion (maxfusion)"
    ]  # fmt: skip


def test_the_threshold_is_a_row_for_each_delta(tmp_path):
    names = {f"maxfusion/delta={delta:g}": delta for delta in (-1, 0.7, 1)}
    scores = {"joint": {**dict.fromkeys(names, 0.5), "average": 0.4, "none": 0.0}}
    run = run_of(tmp_path, "threshold", scores)
    metrics = run.metrics.assign(parameter=None)
    metrics["setting"] = metrics.method.map(names)
    metrics.loc[metrics.setting.notna(), "parameter"] = "rule.delta"
    metrics.sample(frac=1, random_state=0).to_csv(run.folder / "metrics.csv", index=False)
    table = PaperTable(ITEM["fig_9"], {"threshold": Results(run.folder)})
    assert [row[1] for row in rows(table.markdown())[2:]] == [*names, "average"]


# --- a user's file ------------------------------------------------------------------------------------------------


def given(tmp_path, content):
    path = tmp_path / "published.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_published(path)


def test_a_user_s_numbers_are_read_under_the_papers_names(tmp_path):
    text = "metric , method,cell,value\nclip_score,MaxFusion, hed_depth ,30.5\nfid,SPADE,seg_depth,-1e1\n"
    assert given(tmp_path, text) == [
        Published("hed_depth", "maxfusion", "clip_score", 30.5), Published("seg_depth", "SPADE", "fid", -10.0)
    ]  # fmt: skip
    assert given(tmp_path, b"\xef\xbb\xbf" + text.encode())  # as a spreadsheet writes it
    for name, method in PAPER.items():
        assert given(tmp_path, f"{EXAMPLE}\nhed_depth,{name},fid,1,x\n")[0].method == method


HEAD = f"{EXAMPLE}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no column cell; its first line is cell,method,metric,value,source"),
        ("cell,method,metric\n", "has no column value"),
        ("cell,method,metric,value,value\nx,y,z,1,1\n", "has a column twice"),
        ("cell,method,metric,value,note\nx,y,z,1,1\n", "has a column 'note'"),
        (HEAD, "has no rows below its headings"),
        (f"{HEAD}hed_depht,MaxFusion,fid,1,\n", "line 2: 'hed_depht' is no cell; take one of"),
        (f"{HEAD}adapters_hed_depth,MaxFusion,fid,1,\n", "line 2: 'adapters_hed_depth' is no cell"),
        (f"{HEAD}hed_depth,MaxFusion,fidd,1,\n", "line 2: 'fidd' is no metric; take one of fid"),
        (f"{HEAD}hed_depth,MaxFusion,fid,1.5x,\n", "line 2: '1.5x' is no number"),
        (f"{HEAD}hed_depth,MaxFusion,fid,nan,\n", "line 2: 'nan' is no number"),
        (f'{HEAD}hed_depth,MaxFusion,fid,"1,5",\n', "line 2: '1,5' is no number; write it with a decimal point"),
        (f"{HEAD}hed_depth,MaxFusion,fid,1,5,\n", "line 2 has more fields"),
        (f"{HEAD}hed_depth,MaxFusion,fid,1,\nhed_depth,MaxFusion,fid\n", "line 3 has fewer fields"),
        (f"{HEAD}hed_depth,,fid,1,\n", "line 2 has no method"),
        (f"{HEAD}hed_depth,MaxFusion,fid,1,\nhed_depth,maxfusion,fid,2,\n", "has fid of maxfusion in hed_depth twice"),
        (f'{HEAD}hed_depth,"MaxFusion,fid,1,\n', "is no CSV file in UTF-8"),
        (b"\xff\xfe\x00", "is no CSV file in UTF-8"),
    ],
)
def test_a_mistake_in_it_is_one_sentence(content, message, tmp_path):
    with pytest.raises(UserError) as error:
        given(tmp_path, content)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.csv"):
        with pytest.raises(UserError, match="cannot be read"):
            read_published(path)
