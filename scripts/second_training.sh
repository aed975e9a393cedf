#!/usr/bin/env bash
# Do the findings hold for another training? bash scripts/second_training.sh [RESULTS [OVERRIDE ...]]
#
# A U-Net and ControlNets of the miniature learn from another seed, on the shipped autoencoder, text encoder and annotator
# (training/second; hours on a processor). Then every pair, contradictory and not, is run on both families, and
# RESULTS/miniature/second_training.md (results/) has their differences side by side. Stopped, it is resumed by the same
# command. Overrides are for every run.
#
#   SAMPLES=128   of every pair
#   SHORTEN=1     multiplies the steps of the training; a folder that is begun keeps its own
#   ANY_CODE=1    also where the checkout has changes that are not committed: such results are not to be published
set -euo pipefail
cd "$(dirname "$0")/.."
results=${1:-results}
more=("${@:2}")
samples=${SAMPLES:-128}
second=training/second
shorten=${SHORTEN:-1}

if [[ -z ${ANY_CODE:-} && -n $(git status --porcelain --untracked-files=no -- . ':!results') ]]; then
  echo "second_training: the checkout has changes that are not committed; commit them, or set ANY_CODE=1." >&2
  exit 2
fi
if [[ ! -d maxbench/suites/weights/miniature/histories ]]; then
  echo "second_training: the shipped family does not say how it was trained (histories/), so that nothing can be trained on" \
    "its parts; this needs the third version of the miniature." >&2
  exit 2
fi
if [[ ! -e $second ]]; then # all of it or nothing: a part whose history is there counts as trained
  rm -rf "$second.partial"
  mkdir -p "$second.partial"
  cp -r maxbench/suites/weights/miniature/. "$second.partial"
  rm -f "$second.partial/README.md" "$second.partial/losses.png" # of the shipped family
  echo "$shorten" >"$second.partial/shorten"
  mv "$second.partial" "$second"
fi
if [[ $(cat "$second/shorten" 2>/dev/null) != "$shorten" ]]; then
  echo "second_training: $second was not begun by this script with SHORTEN=$shorten; delete it, or give its own." >&2
  exit 2
fi

anew=()
for part in unet controlnet_depth controlnet_seg controlnet_hed; do anew+=("parts.$part.seed=7"); done
python scripts/train_miniature.py "weights=$second" card=false "only=[unet,controlnet_depth,controlnet_seg,controlnet_hed]" \
  "shorten=$shorten" "${anew[@]}"

runs=()
for experiment in {contradictory_,}{hed_depth,seg_depth,hed_seg}; do
  for root in miniature "$second"; do
    words=("experiment=$experiment" suite=miniature "suite.root=$root" "samples=$samples" "${more[@]}")
    ((samples <= 250)) || words+=("scenes=$((2 * samples + 1024))")
    python -m maxbench run "${words[@]}"
    runs+=("$(python -m maxbench run "${words[@]}" --dry-run | sed -n 's/^run folder: \([^,]*\).*/\1/p')")
  done
done
python -m maxbench compare "${runs[@]}" --methods average,sum,tuned_sum,gated_sum,maxfusion \
  --baseline average,sum,tuned_sum,maxfusion --output "$results/miniature/second_training.md"
