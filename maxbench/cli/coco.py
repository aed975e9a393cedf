"""The command `maxbench data coco`: COCO val2017 into a folder, or a look at the copy that is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maxbench.cli.command import parser_of
from maxbench.configuration.schema import nearest
from maxbench.data.annotations import read_captions
from maxbench.data.download import ADDRESS, SPLIT, fetch_coco
from maxbench.errors import UserError

HELP = f"""\
usage: maxbench data coco [data.root=DIR] [--from URL]

Fetch COCO val2017, 5,000 pictures with captions and outlined objects: about 1.1 GB to fetch, 2.2 GB of disk on the way
and 0.9 GB after it. A copy that is there already is taken as it is. Stopped, the same command goes on where it was.

  data.root=DIR   the folder, data/coco by default: annotations/*.json and val2017/ go there
  data_dir=DIR    the folder of all data sets; COCO goes to DIR/coco
  --from URL      a mirror with the publisher's paths, in the place of {ADDRESS}
"""
KEYS = ("data.root", "data_dir")


def coco(words: Sequence[str]) -> int:
    """`maxbench data coco [data.root=DIR] [--from URL]`; returns the exit code."""
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    parser = parser_of("data coco")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--from", dest="address", default=ADDRESS)
    found = parser.parse_intermixed_args(words)
    root = _root(found.settings)
    fetched = fetch_coco(root, found.address)
    count = len(read_captions(root / "annotations" / f"captions_{SPLIT}.json").images)
    said = f"fetched {' and '.join(fetched)}" if fetched else "there already, taken as it is"
    print(f"COCO {SPLIT}: {count:,} pictures in {root}, {said}")
    print(f"use it: python -m maxbench run experiment=hed_depth data=coco data.root={root}")
    return 0


def _root(settings: Sequence[str]) -> Path:
    """The folder that settings name."""
    given: dict[str, str] = {}
    for each in settings:
        key, sign, value = each.partition("=")
        if key not in KEYS or not sign or not value:
            raise UserError(f"'{each}' is no setting of `data coco`; write data.root=DIR ({nearest(key, KEYS)})")
        given[key] = value
    return Path(given.get("data.root") or Path(given.get("data_dir", "data")) / "coco")
