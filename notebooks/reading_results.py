# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Reading results with pandas
#
# A finished run leaves tables: `metrics.csv` (a row for each method and metric), `differences.csv` (paired differences
# to the baselines) and `samples.parquet` (every score of every image). [outputs.md](../docs/outputs.md) describes their
# columns. Set `RUN` to a run of yours, by its folder or the beginning of its name; without one a small run is made
# here.

# %%
import subprocess
import sys

import matplotlib.pyplot as plt
from PIL import Image

from maxbench.report.runs import Results, find

# %% tags=["parameters"]
RUN = None
RULE, BASELINE = "maxfusion", "sum"
SAMPLES = 16
SETTINGS = []  # further ones of the run, as of the command

# %%
if RUN is None:
    left_out = ["single_tuned", "tuned_sum", "scheduled_sum", "random_blobs", "maxfusion_tuned", "maxfusion_published"]
    command = [
        sys.executable, "-m", "maxbench", "run", "experiment=hed_depth", "suite=miniature", f"samples={SAMPLES}",
        "scenes=64", "pairing.reference=32", "metrics.resamples=500", *(f"~methods.{name}" for name in left_out),
        "output_dir=runs", "data_dir=data", *SETTINGS,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    print("\n".join((done.stderr if done.returncode else done.stdout).splitlines()[-9:]))
run = Results(find([RUN or "hed_depth"])[0])
run.id

# %% [markdown]
# ## The table
#
# One metric a column; `role` tells methods from the rows that no method made.

# %%
metrics = run.metrics
shown = ["joint", "hed_ssim", "depth_rmse", "clip_score"]
metrics[metrics.metric.isin(shown)].pivot_table(index=["role", "method"], columns="metric", values="value", sort=False)[
    shown
].round(3)

# %% [markdown]
# ## Differences, with what can be said of them

# %%
differences = run.differences
own = differences[(differences.baseline == BASELINE) & (differences.metric == "joint")]
own[["method", "value", "low", "high", "verdict", "needed"]].round(3)

# %% [markdown]
# ## The samples where the rule wins most
#
# Both methods made every sample from the same noise, so that scores are compared image by image.

# %%
samples = run.samples
joint = samples[samples.metric == "joint"].pivot(index=["sample", "replicate"], columns="method", values="value")
gain = (joint[RULE] - joint[BASELINE]).sort_values()
gain.describe().round(3)

# %%
figure, axis = plt.subplots(figsize=(4.5, 2.4), dpi=80, layout="constrained")
axis.hist(gain, bins=12, color="#0072B2")
axis.axvline(0, color="grey", linewidth=0.8)
axis.set_xlabel(f"joint score of {RULE} less that of {BASELINE}, per image")
axis.set_ylabel("images")
plt.show()

# %% [markdown]
# The two where it loses most, and the two where it wins most: the real picture, then both methods' pictures.

# %%
chosen = [*gain.index[:2], *gain.index[-2:]]
sources = {each["id"]: each["sources"]["hed"] for each in run.manifest["samples"]}
figure, axes = plt.subplots(len(chosen), 3, figsize=(4.6, 1.6 * len(chosen)), dpi=80, layout="constrained")
for line, (sample, replicate) in zip(axes, chosen, strict=True):
    files = [
        run.folder / "real" / f"{sources[sample]:012d}.png",
        *(run.folder / "images" / method / f"{sample}-{replicate}.png" for method in (BASELINE, RULE)),
    ]
    for axis, file in zip(line, files, strict=True):
        axis.set_xticks([])
        axis.set_yticks([])
        axis.imshow(Image.open(file), interpolation="nearest")
    line[0].set_ylabel(f"{gain[sample, replicate]:+.2f}", fontsize=9)
for axis, title in zip(axes[0], ("real", BASELINE, RULE), strict=True):
    axis.set_title(title, fontsize=9)
plt.show()
