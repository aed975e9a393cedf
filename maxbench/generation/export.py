"""An experiment for other programs: the prompts, noise, maps, masks and hints that its pictures are made from."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maxbench import images as im
from maxbench.data.pairing import Sample
from maxbench.errors import UserError
from maxbench.experiments.method import Experiment
from maxbench.generation.inputs import CONTROL, ControlInputs
from maxbench.generation.sampling import Sampling
from maxbench.models.pipeline import Sampler
from maxbench.progress import track
from maxbench.seeds import derive
from maxbench.store.files import STRAY_SECONDS, age, fingerprint, write_atomically
from maxbench.store.runfolder import picture_name

MANIFEST, README = "manifest.json", "README.md"
FORMAT, VERSION = "maxbench export", 1
"""What the manifest of an export says of itself; raise the version when what it says is changed."""

NOISE = (
    "torch.randn(latent_shape, generator=torch.Generator().manual_seed(noise_seed)): float32, on the processor, "
    "standard normal; multiply it by the scheduler's init_noise_sigma"
)
TEXT = """\
# Make the pictures of one method elsewhere

Everything that the pictures of `{experiment}` are made from. Make one picture for every entry of `images` in
`manifest.json`, and put it, as an 8-bit RGB PNG of {resolution} x {resolution} pixels, into a folder under the name
`file` of its entry; nothing else may lie in that folder. Then score them:

    python -m maxbench evaluate --images FOLDER --manifest manifest.json --name NAME

| entry of an image | what |
|---|---|
| `file` | the name that the picture must have |
| `prompt`, `negative_prompt` | texts |
| `noise` | the noise to start from, (channels, height, width) float32 as .npy: that of every method of maxbench |
| `noise_seed` | the seed that it was drawn with, see `noise` at the top of the manifest |
| `controls` | for each condition ({conditions}): `map`, `hint` (what a ControlNet is shown) and `control_mask` |

A `control_mask` is 255 where the map is given and 0 where nothing is said; it is null where the map is given
everywhere. Map and hint have the condition's null value where the mask is 0. A segmentation's map is class numbers, its
hint their colours.

```python
import json, os
import numpy
from PIL import Image

os.makedirs("pictures", exist_ok=True)
manifest = json.load(open("manifest.json"))
for image in manifest["images"]:
    noise = numpy.load(image["noise"])
    hints = [Image.open(control["hint"]) for control in image["controls"].values()]
    picture = my_method(image["prompt"], image["negative_prompt"], hints, noise)  # a PIL image
    picture.save("pictures/" + image["file"])
```

`config` and `maps` in the manifest are for maxbench, which builds the experiment again from them. Do not change the
manifest: it carries its own digest.
"""


def images_of(experiment: Experiment, sampler: Sampler) -> list[dict[str, Any]]:
    """The entries of the manifest, one for every image of the experiment."""
    return [
        {
            "file": picture_name(sample.id, replicate),
            "sample": sample.id,
            "replicate": replicate,
            "prompt": sample.prompt,
            "negative_prompt": sampler.negative_prompt,
            "noise": _noise_file(sample, replicate),
            "noise_seed": derive("noise", experiment.seed, sample.group, replicate),
            "controls": {
                name: {
                    "map": f"maps/{name}/{sample.id}.png",
                    "hint": f"hints/{name}/{sample.id}.png",
                    "control_mask": f"{CONTROL}/{name}/{sample.id}.png" if name in sample.control_masks else None,
                }
                for name in experiment.conditions
            },
        }
        for sample, replicate in experiment.images
    ]


def _noise_file(sample: Sample, replicate: int) -> str:
    return f"noise/{sample.id}-{replicate}.npy"


def maps_of(inputs: ControlInputs) -> dict[str, str]:
    """Condition -> a digest of all its maps and masks."""
    return {
        name: fingerprint({sample.id: inputs.identity(name, sample) for sample in inputs.samples})
        for name in inputs.conditions
    }


def write_export(
    output: Path, experiment: Experiment, sampling: Sampling, about: Mapping[str, str], config: Mapping[str, Any]
) -> bool:
    """Write everything into the folder `output`, which appears whole or not at all; False if it was there already.

    A folder that holds anything else is a UserError and stays as it is. The inputs must be made. about: what else the
    manifest says for people; config: the resolved configuration, from which the experiment is built again.
    """
    inputs = sampling.inputs
    said = {
        "format": FORMAT,
        "version": VERSION,
        "experiment": experiment.name,
        **about,
        "resolution": inputs.resolution,
        "latent_shape": list(sampling.networks.latents()),
        "noise": NOISE,
        "images": images_of(experiment, sampling.sampler),
        "maps": maps_of(inputs),
        "config": dict(config),
    }
    manifest = sealed(said)
    if not _is_free(output, manifest):
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    _sweep(output)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        _fill(partial, experiment, sampling)
        conditions = ", ".join(f"`{name}`" for name in experiment.conditions)
        text = TEXT.format(experiment=experiment.name, resolution=inputs.resolution, conditions=conditions)
        write_atomically(partial / README, text)
        write_atomically(partial / MANIFEST, manifest)
        partial.chmod(0o755)
        partial.replace(output)  # also onto an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _fill(folder: Path, experiment: Experiment, sampling: Sampling) -> None:
    inputs = sampling.inputs
    for sample in track(experiment.samples, "exporting", len(experiment.samples), "samples"):
        for name, condition in experiment.conditions.items():
            maps = inputs.condition_maps(name, [sample])
            hint = im.to_bytes(condition.hint(maps))[0]
            for kind, array in (("maps", maps[0].numpy()), ("hints", hint)):
                write_atomically(folder / kind / name / f"{sample.id}.png", im.encode_png(array))
            mask = inputs.mask(CONTROL, name, [sample])
            if mask is not None:
                content = im.encode_png(mask[0].numpy().astype(np.uint8) * 255)
                write_atomically(folder / CONTROL / name / f"{sample.id}.png", content)
    for sample, replicate in experiment.images:
        buffer = io.BytesIO()
        noise = sampling.batch([sample], [replicate], ()).start(sampling.networks.latents())
        np.save(buffer, noise[0].numpy())
        write_atomically(folder / _noise_file(sample, replicate), buffer.getvalue())


def _is_free(output: Path, manifest: str) -> bool:
    """Whether an export can be written there; False if this very one is there, UserError for anything else."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"--output is {output}, which is a file or a link; give a new folder.")
    if not output.exists() or not any(output.iterdir()):
        return True
    with contextlib.suppress(OSError):
        if (output / MANIFEST).read_bytes() == manifest.encode():
            return False
    raise UserError(f"--output is {output}, which holds something else; give a new folder, or move that one away.")


def _sweep(output: Path) -> None:
    """Remove what exports that were killed have left."""
    for stray in output.parent.glob(f".{output.name}.*.partial"):
        with contextlib.suppress(OSError):
            if age(stray) > STRAY_SECONDS:
                shutil.rmtree(stray, ignore_errors=True)


def sealed(said: Mapping[str, Any]) -> str:
    """A manifest as text, with the digest of what it says."""
    return json.dumps({**said, "sha256": fingerprint(dict(said))}, indent=1)


def read_manifest(path: Path) -> dict[str, Any]:
    """What the manifest of an export says; UserError for a file that is none, was changed, or is of another version."""
    again = "export the experiment again with `python -m maxbench export`."
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"There is no manifest {path}; give the manifest.json of an export.") from error
    except OSError as error:
        raise UserError(f"The manifest {path} cannot be read ({error.strerror}); give the one of an export.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON, and so no manifest of an export; {again}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise UserError(f"{path} is no manifest of an export; {again}")
    if said.get("version") != VERSION:
        raise UserError(
            f"The manifest {path} is of version {said.get('version')!r}, and this maxbench reads {VERSION}; {again}"
        )
    claimed = said.pop("sha256", None)
    try:
        sound = fingerprint(said) == claimed
    except ValueError:  # a number that is none
        sound = False
    if not sound:
        raise UserError(f"The manifest {path} was changed after it was exported; {again}")
    return said
