# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A rule of your own, entered
#
# A fusion rule is a class with two functions. It can be tried in a call, and it can be entered into the tables of an
# experiment, beside all other methods: on their samples, their maps and their noise.

# %%
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

import maxbench
from maxbench.fusion import SpatialWeighting
from maxbench.report.runs import find

# %% tags=["parameters"]
SAMPLES = 8
SCENES = 48
SETTINGS = []  # further ones of the export, as of the command


# %% [markdown]
# Every branch in proportion to its norm at every location, to the power of `sharpness`. `weigh` is all that such a rule
# writes; see [own_rule.md](../docs/own_rule.md).


# %%
@dataclass(frozen=True)
class NormWeighted(SpatialWeighting):
    """Every branch in proportion to its norm, to the power of `sharpness`."""

    sharpness: float = 1.0

    def weigh(self, f):  # N features (B, C, H, W), float32 => N weights (N, B, 1, H, W)
        norms = torch.stack([each.norm(dim=1, keepdim=True) for each in f]) ** self.sharpness
        return norms / norms.sum(dim=0).clamp_min(1e-12)


# %% [markdown]
# ## In a call

# %%
pipe = maxbench.load("miniature", controls=["hed", "depth"])
picture, prompt = maxbench.example(7)
maps = {name: maxbench.annotate(picture, name, pipe) for name in pipe.conditions}
print(prompt)
pipe(prompt, maps, NormWeighted(sharpness=2.0), sites=[], seed=0).images[0].resize((192, 192), 0)

# %% [markdown]
# ## In the tables
#
# The export writes what the pictures of an experiment are made from: prompts, maps, noise, and a manifest. This needs
# no configuration file, and would be the same for a method that runs in another program.


# %%
def maxbench_command(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "maxbench", *words], capture_output=True, text=True)
    print("\n".join((done.stdout if done.returncode == 0 else done.stderr).splitlines()[-4:]))


export = Path("hed_depth_export")
maxbench_command(
    "export", "hed_depth", "suite=miniature", f"samples={SAMPLES}", f"scenes={SCENES}", "pairing.reference=32",
    "metrics.resamples=500", "output_dir=runs", "data_dir=data", *SETTINGS, "--output", str(export),
)  # fmt: skip
manifest = json.loads((export / "manifest.json").read_text())
manifest["images"][0]

# %% [markdown]
# `noise_seed` is what the noise of an image is drawn with: given as `seed=`, a picture starts where every method of the
# experiment starts.

# %%
Path("pictures").mkdir(exist_ok=True)
for image in manifest["images"]:
    own = {name: export / control["map"] for name, control in image["controls"].items()}
    made = pipe(image["prompt"], own, NormWeighted(sharpness=2.0), sites=[], seed=image["noise_seed"])
    made.images[0].save(Path("pictures") / image["file"])

# %%
maxbench_command(
    "evaluate", "--images", "pictures", "--manifest", str(export / "manifest.json"), "--name", "norm_weighted"
)

# %% [markdown]
# `none` and the single controls, of which q is made, are there as well. The other methods join when the experiment is
# run with the same settings.

# %%
metrics = pd.read_csv(find(["hed_depth"])[0] / "metrics.csv")
own = metrics[metrics.metric.isin(["joint", "hed_ssim", "depth_rmse", "clip_score"])]
own.pivot_table(index=["role", "method"], columns="metric", values="value").round(3)
