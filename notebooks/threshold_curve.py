# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The threshold curve
#
# MaxFusion averages features whose similarity is above delta and selects between the others. The paper takes 0.7
# (Fig. 9). A run of the experiment `threshold` makes the same samples for each value of delta, on the same noise; this
# notebook starts a small one and draws its curve. With more samples the bars get shorter.

# %%
import subprocess
import sys

import matplotlib.pyplot as plt

from maxbench.report.runs import Results, find

# %% tags=["parameters"]
SAMPLES = 16
SCENES = 64  # of which the samples are taken, and 32 more stand for real pictures
DELTAS = [-1, 0, 0.5, 0.7, 0.9, 1]
SETTINGS = []  # further ones, as of the command

# %%
command = [
    sys.executable, "-m", "maxbench", "run", "experiment=threshold", "suite=miniature", f"samples={SAMPLES}",
    f"scenes={SCENES}", "pairing.reference=32", f"deltas=[{','.join(map(str, DELTAS))}]", "metrics.resamples=500",
    "~methods.outputs_only", "~methods.tuned_sum", "~methods.random_blobs", "output_dir=runs", "data_dir=data",
    *SETTINGS,
]  # fmt: skip
done = subprocess.run(command, capture_output=True, text=True)
print("\n".join((done.stderr if done.returncode else done.stdout).splitlines()[-9:]))

# %% [markdown]
# Rows of a table say what varies in them: `parameter` is `rule.delta`, `setting` its value.

# %%
results = Results(find(["threshold"])[0])
metrics = results.metrics
print(results.id, "on", results.suite)
curve = metrics[metrics.method.str.startswith("maxfusion/")]
curve[curve.metric == "joint"][["method", "setting", "value", "low", "high", "n"]]

# %% [markdown]
# The joint score is the mean over images of the smaller q: 0 where a condition is ignored, 1 where both are followed as
# well as each by its own control alone. At delta = -1 the rule is a mean everywhere, at delta = 1 a selection.

# %%
drawn = [("joint", "joint score"), ("hed_ssim", "HED SSIM"), ("depth_rmse", "depth RMSE")]
figure, axes = plt.subplots(1, len(drawn), figsize=(3.2 * len(drawn), 2.8), dpi=80, layout="constrained")
for axis, (metric, label) in zip(axes, drawn, strict=True):
    own = curve[curve.metric == metric].sort_values("setting")
    axis.errorbar(
        own.setting,
        own.value,
        [own.value - own.low, own.high - own.value],
        fmt="o-",
        color="#0072B2",
        label="maxfusion",
    )
    for name, colour, style in (("sum", "#D55E00", "--"), ("average", "#009E73", ":")):
        line = metrics[(metrics.method == name) & (metrics.metric == metric)]
        if len(line):
            axis.axhline(line.value.iloc[0], color=colour, linestyle=style, label=name)
    axis.axvline(0.7, color="grey", linewidth=0.8)
    axis.set_xlabel("delta (similarity; grey: the paper's)")
    axis.set_ylabel(label)
axes[0].legend(fontsize=8)
figure.suptitle(f"{int(curve.n.max())} images for each value, bars: 95% intervals", fontsize=9)
plt.show()
