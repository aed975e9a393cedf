"""`maxbench` and `python -m maxbench`: help at once, everything heavy only when a verb needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

RUN_HELP = """\
usage: maxbench run experiment=NAME [key=value ...] [-m] [--seeds 0,1,2] [--dry-run] [--debug]

Generate, score and report one experiment. Running the same command again resumes it, or shows its result.

  python -m maxbench run experiment=hed_depth
  python -m maxbench run experiment=hed_depth samples=64 seed=1 output_dir=elsewhere
  python -m maxbench run experiment=hed_depth methods.maxfusion.rule.delta=0.5
  python -m maxbench run experiment=hed_depth '~methods.sum' sampler=paper
  python -m maxbench run -m experiment=hed_depth,seg_depth seed=0,1
  python -m maxbench run experiment=hed_depth --seeds 0,1,2

keys:
  experiment=   one of conf/experiment/
  suite=        what has weights; one of conf/suite/
  data=         pictures; one of conf/data/: data=coco data.root=DIR, data=folder data.root=DIR
  samples=      things to generate, per method         replicates=  images of each, with different noise
  seed=         of noise and choice of samples         baseline=    method that differences are to
  output_dir=   where run folders go                   data_dir=    where data sets lie
  store_dir=    where everything expensive lies that runs share
  sampler=      one of conf/sampler/; sampler.steps=, sampler.guidance_scale=
  runtime.device= auto, cpu, cuda                      runtime.batch_size= a number, or auto; runtime.threads=
  runtime.workers= processes, one a GPU by default     runtime.address= of a Ray cluster; see docs/cluster.md
  runtime.dtype=  fp32, bf16, fp16                     runtime.tf32=, channels_last=, compile=, vae_slices=,
                                                       vae_tiling=
  methods.NAME. rule, sites, branches, scale, branch_scale, layer_scale, control_start, control_end, fusion_start,
                fusion_end, otherwise, match, vary, tune, then, trials of a method; +fusion@methods.NAME=FILE adds one
                of conf/fusion/, ~methods.NAME removes one
  tracking=     none, or wandb: tell Weights & Biases; see docs/tracking.md
  diagnostics.samples= record and draw what the rules decide on the first samples; changes no number

options, anywhere between them:
  -m            run every combination of comma-separated values, range(0,3), glob(*); one that fails stops no other,
                and a ledger of all of them, sweep.csv, is kept in output_dir
  --seeds 0,1   run each seed, then write one result of all of them; no seed= beside it
  --dry-run     say what would be made and what is there already, how many evaluations and how much disk, and stop
  --config-dir  a folder with configuration of your own, laid out like conf/
  --cfg job     print the composed configuration and stop; with --resolve, --package methods
  --debug       show the traceback of an error
"""


PAPER_HELP = """\
usage: maxbench paper [key=value ...] [--run] [--only ITEMS] [--published FILE] [--output DIR] [--latex] [--debug]

Of which of MaxFusion's tables and figures there are runs, the command of each missing one, and the tables of the rest.

  python -m maxbench paper
  python -m maxbench paper suite=sd15 data.root=/data/coco samples=500 sampler=paper
  python -m maxbench paper samples=64 --run
  python -m maxbench paper --published published.csv --latex

keys: as of `maxbench run`; they hold for every table. The suite is one for all of them.

options, anywhere between them:
  --run            make everything that is missing, after saying how long that takes; the same command goes on
  --only ITEMS     of table_1, tables_2_3, table_4, fig_9, fig_10, with commas between them
  --no-adapters    leave out the runs with T2I-Adapters, which only the row Multi-T2I-Adapter needs
  --published FILE a CSV file with the paper's numbers, which stand beside ours: cell,method,metric,value,source
  --orientation    also print figures of a third party, marked as such
  --output DIR     where paper.md, paper.csv and a .tex for each table go; paper-<suite> in output_dir unless said
  --latex          print LaTeX instead of Markdown
  --config-dir     a folder with configuration of your own, laid out like conf/
"""


def _coco(words: Sequence[str]) -> int:
    from maxbench.cli.coco import coco

    return coco(words)


def _preview(words: Sequence[str]) -> int:
    from maxbench.cli.preview import preview

    return preview(words)


def _weights(words: Sequence[str]) -> int:
    from maxbench.cli.weights import weights

    return weights(words)


DATA: dict[str, Callable[[Sequence[str]], int]] = {"coco": _coco, "preview": _preview, "weights": _weights}
"""What follows `data` and takes settings: its name -> what is called with the words after it."""


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="maxbench",
        description="Several spatial controls at once on a text-to-image diffusion model, measured.",
        epilog="`maxbench run --help` lists the settings of a run. --debug shows the traceback of an error.",
    )
    main.add_argument("--version", action="store_true", help="print the version and stop")
    verbs = main.add_subparsers(dest="verb", metavar="VERB")
    verbs.add_parser("run", help="generate, score and report an experiment", add_help=False)
    verbs.add_parser("search", help="look for a method's numbers on training scenes, then run", add_help=False)
    tables = verbs.add_parser("tables", help="print the tables of finished runs")
    tables.add_argument(
        "folder",
        nargs="*",
        help="runs, by their folders or the beginnings of their names in --output-dir; without any, all that are there",
    )
    tables.add_argument("--output-dir", default="runs")
    tables.add_argument("--pool", action="store_true", help="write one result of several runs that differ in the seed")
    tables.add_argument("--output", help="of --pool: its folder; otherwise beside the first run")
    tables.add_argument("--latex", action="store_true", help="print what answers the question as tables of booktabs")
    tables.add_argument(
        "--baseline", action="append", default=[], metavar="NAME", help="also print differences to this row; repeatable"
    )
    figures = verbs.add_parser(
        "figures",
        help="draw the figures of finished runs, as PDF and PNG for print",
        description="Draw what a finished run has files for: contact sheets, variance and winner maps, curves, "
        "intervals and differences. They go into RUN/figures/; nothing is computed again. See docs/figures.md.",
    )
    figures.add_argument("run", nargs="+", help="a folder, or the beginning of its name in --output-dir")
    figures.add_argument(
        "--methods", metavar="A,B", default="", help="rows of the tables to show; more than six make several sheets"
    )
    figures.add_argument("--samples", metavar="N", type=int, help="show so many of the first samples; 8, or as fit")
    figures.add_argument("--sample", metavar="ID", action="append", default=[], help="show this sample; repeatable")
    figures.add_argument("--replicates", metavar="N", type=int, default=1, help="rows of each sample, with other noise")
    figures.add_argument("--only", metavar="A,B", default="", help="of the figures, by the names of their files")
    figures.add_argument("--format", metavar="A,B", default="pdf,png", help="pdf, png or both")
    figures.add_argument("--output", metavar="DIR", help="where they go; a folder for each run if there are several")
    figures.add_argument("--output-dir", default="runs")
    compare = verbs.add_parser(
        "compare",
        help="print one table of several runs, and which rules are shown ahead in them",
        description="A row for a method of a run, with the settings in which the runs differ beside it. Runs that "
        "differ in their seed alone are pooled. With --baseline also paired differences of the joint score, with one "
        "correction for all runs.",
    )
    compare.add_argument("run", nargs="*", help="as `list` names them: a folder, or the beginning of its name")
    compare.add_argument("--output-dir", default="runs")
    compare.add_argument("--methods", default="", metavar="A,B", help="rows; all methods unless said")
    compare.add_argument("--metrics", default="", metavar="A,B", help="columns, by their names in metrics.csv")
    compare.add_argument(
        "--baseline", default="", metavar="A,B", help="weigh the methods against these rows; all: every row"
    )
    compare.add_argument("--latex", action="store_true", help="print tables of booktabs")
    compare.add_argument("--csv", action="store_true", help="print every number of the rows, for programs")
    compare.add_argument("--output", metavar="FILE", help="also write it here")
    listing = verbs.add_parser("list", help="list the runs of a folder, finished or not")
    listing.add_argument("--output-dir", default="runs")
    listing.add_argument("--csv", action="store_true", help="every column, for programs")
    verbs.add_parser("paper", help="the paper's tables: what is there, what makes the rest", add_help=False)
    report = verbs.add_parser(
        "report",
        help="write a page of finished runs that opens from disk",
        description="Write a folder with a page of tables, plots and all samples of finished runs; it opens from disk, "
        "without a network and without a server.",
    )
    report.add_argument(
        "folder",
        nargs="*",
        metavar="RUN",
        help="runs, by their folders or the beginnings of their names in --output-dir; without any, all that are there",
    )
    report.add_argument("--output", default="report", metavar="DIR", help="a new folder, or a report; default: report")
    report.add_argument("--output-dir", default="runs", metavar="DIR", help="where run folders lie; default: runs")
    report.add_argument(
        "--maps", type=int, default=32, metavar="N",
        help="samples of each run whose pictures are shown with re-estimated maps; 0 for none; default: 32",
    )  # fmt: skip
    export = verbs.add_parser(
        "export",
        help="write what the pictures of an experiment are made from, for other programs",
        description="Write prompts, noise, maps, masks and a manifest into a new folder.",
    )
    export.add_argument("experiment", help="one of conf/experiment/")
    export.add_argument("settings", nargs="*", metavar="key=value", help="as of `run`")
    export.add_argument("--output", metavar="DIR", help="a new folder")
    export.add_argument("--config-dir", metavar="DIR", help="a folder with configuration of your own")
    evaluate = verbs.add_parser(
        "evaluate",
        help="score pictures made elsewhere, or a finished run again",
        description="Score a folder of pictures as a row of the experiment that a manifest is of (see `export`), or "
        "the pictures of a finished run with what is to be measured now. A manifest is configuration: take it only "
        "from whom you would take a program.",
    )
    evaluate.add_argument(
        "folder",
        nargs="?",
        help="a finished run, by its folder or the beginning of its name; without the options below",
    )
    evaluate.add_argument("--images", metavar="DIR", help="<sample>-<replicate>.png of every image, 8-bit RGB")
    evaluate.add_argument("--manifest", metavar="FILE", help="manifest.json of the export")
    evaluate.add_argument("--name", help="of the row in tables; entering it again replaces it")
    evaluate.add_argument("--output-dir", metavar="DIR", help="where run folders go; as exported")
    verbs.add_parser("bench", help="time every rule beside diffusers' own pipeline", add_help=False)
    doctor = verbs.add_parser("doctor", help="say what this machine can run")
    doctor.add_argument("--output-dir", default="runs")
    doctor.add_argument("--data-dir", default="data")
    data = verbs.add_parser("data", help="list the data sets, prepare one, or look after the store")
    data.add_argument(
        "name",
        nargs="?",
        help=f"miniature, a data set to prepare; `store` says what lies in the store, `prune` removes what no run "
        f"refers to; {' and '.join(DATA)} have a help of their own: data NAME --help",
    )
    data.add_argument("--split", default="val")
    data.add_argument("--count", type=int, default=768, help="scenes to render")
    data.add_argument("--data-dir", default="data")
    data.add_argument("--store-dir", default="runs/store", help="of `store` and `prune`")
    data.add_argument("--yes", action="store_true", help="of `prune`: do not ask")
    for verb in (tables, figures, compare, listing, report, export, evaluate, doctor, data):
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, 2 for what a user can correct, 1 for a mistake of the program."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    words = [each for each in arguments if each != "--debug"]
    if words[:1] == ["run"]:
        if {"--help", "-h"} & set(words):
            print(RUN_HELP, end="")
            return 0
        return _guarded(debug, lambda: _run(words[1:], debug))
    if words[:1] == ["search"]:
        return _guarded(debug, lambda: _search(words[1:]))
    if words[:1] == ["bench"]:
        return _guarded(debug, lambda: _bench(words[1:]))
    if words[:1] == ["paper"]:
        if {"--help", "-h"} & set(words):
            print(PAPER_HELP, end="")
            return 0
        return _guarded(debug, lambda: _paper(words[1:], debug))
    if words[:1] == ["data"] and words[1:2] and words[1] in DATA:
        return _guarded(debug, lambda: DATA[words[1]](words[2:]))
    if words[:1] == ["export"] and not {"--help", "-h"} & set(words):
        return _guarded(debug, lambda: _export(words[1:]))
    options = parser().parse_args(words)
    if options.version:
        from maxbench import __version__

        print(__version__)
        return 0
    if options.verb is None:
        parser().print_help()
        return 0
    return _guarded(debug, lambda: _verb(options))


def _run(words: Sequence[str], debug: bool) -> int:
    from maxbench.cli.run import run

    return run(words, debug)


def _search(words: Sequence[str]) -> int:
    from maxbench.cli.search import HELP, search

    if {"--help", "-h"} & set(words):
        print(HELP, end="")
        return 0
    return search(words)


def _bench(words: Sequence[str]) -> int:
    from maxbench.cli.bench import bench

    return bench(words)


def _paper(words: Sequence[str], debug: bool) -> int:
    from maxbench.cli.paper import paper

    return paper(words, debug)


def _export(words: Sequence[str]) -> int:
    from maxbench.cli.export import export

    return export(words)


def _verb(options: argparse.Namespace) -> int:
    if options.verb == "tables":
        from maxbench.cli.tables import tables

        return tables(options.folder, options.output_dir, options.pool, options.output, options.baseline, options.latex)
    if options.verb == "figures":
        from maxbench.cli.figures import Wanted, figures

        return figures(options.run, options.output_dir, options.output, Wanted.read(options))
    if options.verb == "compare":
        from maxbench.cli.compare import compare

        return compare(
            options.run, options.output_dir, options.methods, options.metrics, options.baseline, options.latex,
            options.csv, options.output,
        )  # fmt: skip
    if options.verb == "list":
        from maxbench.cli.list import list_runs

        return list_runs(options.output_dir, options.csv)
    if options.verb == "report":
        from maxbench.cli.report import report

        return report(options.folder, options.output_dir, options.output, options.maps)
    if options.verb == "evaluate":
        from maxbench.cli.evaluate import evaluate

        return evaluate(options.folder, options.images, options.manifest, options.name, options.output_dir)
    if options.verb == "doctor":
        from maxbench.cli import doctor

        return doctor.report(options.output_dir, options.data_dir)
    if options.verb == "data" and options.name in ("store", "prune"):
        from maxbench.cli import store

        if options.name == "prune":
            return store.prune(options.store_dir, options.yes)
        return store.show(options.store_dir)
    from maxbench.cli import data

    return data.report(options.name, options.split, options.count, options.data_dir)


def _guarded(debug: bool, verb: Callable[[], int]) -> int:
    """The exit code of a verb; whatever goes wrong in it becomes one sentence."""
    try:
        code = verb()
        sys.stdout.flush()  # here, where a full disk or a reader that has gone away can still be noticed
        return code
    except KeyboardInterrupt:
        print("maxbench: stopped; the same command continues where it was.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141  # as a program that the system ends for it
    except Exception as error:
        if debug:
            raise
        from maxbench.cli.failures import say_failure

        if isinstance(error, OSError) and not _output_is_sound():
            print(f"maxbench: the output cannot be written ({error.strerror}); send it elsewhere.", file=sys.stderr)
            return 2
        return say_failure(error)


def _output_is_sound() -> bool:
    """Whether an empty line can be printed; if not, the output is dropped, so that Python does not try at its end."""
    try:
        print(flush=True)
    except OSError:
        _drop_output()
        return False
    return True


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
