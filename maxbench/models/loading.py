"""Networks and tokenizers from folders in the Hub's layout, as the files say and not otherwise.

The libraries fill a tensor that a file lacks with random numbers, drop one that they do not know, and make a tokenizer
of two words from an empty folder. Here each of these is a UserError that names the folder and the tensors.
Nothing is fetched. State dicts are safetensors, or where there are none `.bin` files, of which torch reads tensors
alone (`weights_only`); no other pickle is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maxbench.errors import UserError
from maxbench.models.files import tokenizer_files, variant_of, weights_of
from maxbench.models.libraries import diffusers, transformers

HARMLESS = ("position_ids", "relative_position_index")
"""Last parts of tensors' names that may be left over or missing: buffers that old checkpoints of CLIP and Swin hold and
that the libraries now compute."""

LONGEST_CONTEXT = 10**6
"""Tokens; the library says far more where a tokenizer's configuration says nothing."""


def load_network(
    kind: type, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, unread: Sequence[str] = ()
) -> nn.Module:
    """A diffusers or transformers model for evaluation; a state dict that does not fit its class is a UserError.

    unread: first parts of the names of tensors that may be missing, for the model never reads them.
    """
    quieten()
    with readable(folder):
        net, info = kind.from_pretrained(
            folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            **_how(kind, folder, dtype),
        )
        wrong = {name: (found, wanted) for name, found, wanted in info["mismatched_keys"]}
        missing = [name for name in info["missing_keys"] if not name.startswith(tuple(unread))]
        refuse_misfits(folder, kind.__name__, missing, info["unexpected_keys"], wrong)
        return net.to(device).eval().requires_grad_(False)


def _how(kind: type, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Which state dict is read, and what the two libraries want said differently."""
    files = weights_of(folder)
    choice = {
        "use_safetensors": not files or files[0].suffix == ".safetensors",
        "variant": (variant_of(files[0]).removeprefix(".") or None) if files else None,
    }
    if not issubclass(kind, diffusers.ModelMixin):
        return {"dtype": dtype, "weights_only": True, **choice}
    return {"torch_dtype": dtype, "low_cpu_mem_usage": False, **choice}


def refuse_misfits(
    file: Path,
    kind: str,
    missing: Iterable[str],
    unexpected: Iterable[str],
    wrong: Mapping[str, tuple[Sequence[int], Sequence[int]]],
) -> None:
    """Raise a UserError for tensors that do not fit. wrong: name -> the shape that was found, and the right one."""
    shapes = [f"{name} of shape {tuple(found)} for {tuple(wanted)}" for name, (found, wanted) in wrong.items()]
    said = [
        f"{verb} {_first(names)}"
        for verb, names in (("lacks", _harmful(missing)), ("has unknown", _harmful(unexpected)), ("has", shapes))
        if names
    ]
    if said:
        raise UserError(f"{file} does not hold the weights of {kind}: it {' and '.join(said)}; restore them.")


def _harmful(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.rsplit(".", 1)[-1] not in HARMLESS)


def _first(names: Sequence[str], count: int = 3) -> str:
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def load_tokenizer(folder: Path, vocabulary: int) -> transformers.CLIPTokenizer:
    """CLIP's tokenizer. vocabulary: how many tokens the network knows that is to read them."""
    if lacking := [name for name in tokenizer_files(folder) if not (folder / name).is_file()]:
        raise UserError(f"The tokenizer in {folder} lacks {', '.join(lacking)}; restore that folder.")
    quieten()
    with readable(folder):
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocabulary:
        raise UserError(
            f"The tokenizer in {folder} has {largest + 1} tokens, but its text encoder {vocabulary}; "
            "take both from one model."
        )
    if tokenizer.model_max_length > LONGEST_CONTEXT:
        raise UserError(f"The tokenizer in {folder} says no model_max_length; set it in tokenizer_config.json.")
    return tokenizer


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """What a library says of a damaged or incomplete folder becomes a sentence that names the folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged configuration makes the libraries fail in every way there is
        said = " ".join(str(error).split())
        raise UserError(
            f"{folder} cannot be loaded ({type(error).__name__}: {said[:200]}); restore that folder."
        ) from error


def quieten() -> None:
    """The libraries' progress bars and hints are not ours to show."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
