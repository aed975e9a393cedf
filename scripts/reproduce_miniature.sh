#!/usr/bin/env bash
# Make every result about the miniature in results/ anew: bash scripts/reproduce_miniature.sh [RESULTS]
#
# First it says what there is to do and how long it takes. What was made before is found again, so that a stopped script
# is resumed by the same command. Runs lie in runs/, what is worth keeping of them in RESULTS (results/).
#
#   SAMPLES=512   of every pair; the lists of samples begin alike, so fewer are a part of more
#   SEEDS=0,1     of the noise; the runs of all seeds are pooled
#   ONLY=REGEX    of the experiments, to do a part of the work
#   HOURS=1       say what there is to do, and end
#   ANY_CODE=1    also where the checkout has changes that are not committed: such results are not to be published
set -euo pipefail
cd "$(dirname "$0")/.."
results=${1:-results}
samples=${SAMPLES:-512}
seeds=${SEEDS:-0,1}
only=${ONLY:-.}

PAIRS=(hed_depth seg_depth hed_seg)
CELLS=() # experiments whose samples are pairs, every pair and kind of pair
for pair in "${PAIRS[@]}"; do
  CELLS+=("$pair" "contradictory_$pair" "half_split_$pair" "cross_$pair")
done
OTHERS=(three_conditions style variance_maps threshold threshold_contradictory conditioning_ablation scale adapter_singles)

if [[ -z ${ANY_CODE:-} && -n $(git status --porcelain --untracked-files=no) ]]; then
  echo "reproduce_miniature: the checkout has changes that are not committed; commit them, or set ANY_CODE=1." >&2
  exit 2
fi

wanted() { [[ $1 =~ $only ]]; }
experiment() { # its command, without the verb's name
  case $1 in
    singles) echo "experiment=singles samples=$(( samples < 1000 ? samples : 1000 ))" ;;
    style | variance_maps) echo "experiment=$1" ;;
    *) echo "experiment=$1 samples=$samples" ;;
  esac
}
folder() { # of a run, which a dry run names
  # shellcheck disable=SC2046
  python -m maxbench run $(experiment "$1") suite=miniature "${@:2}" --dry-run | sed -n 's/^run folder: \([^,]*\).*/\1/p'
}
keep() { # FOLDER NAME
  python scripts/keep_results.py "$1" "$results/$2"
}

echo "What there is to do, at the rate of this machine where it is known:"
for name in singles "${CELLS[@]}" "${OTHERS[@]}"; do
  wanted "$name" || continue
  # shellcheck disable=SC2046
  said=$(python -m maxbench run $(experiment "$name") suite=miniature --dry-run | grep -E "^(about|nothing|all|[0-9])" | head -n 1 || true)
  echo "  $name, each seed: ${said:-see \`maxbench run $(experiment "$name") --dry-run\`}"
done
[[ -z ${HOURS:-} ]] || exit 0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if wanted singles; then
  # shellcheck disable=SC2046
  python -m maxbench run $(experiment singles) suite=miniature
  python scripts/measure_miniature.py --write-untrained "$scratch/family"
  # shellcheck disable=SC2046
  python -m maxbench run $(experiment singles) suite=miniature "suite.root=$scratch/family" 'methods.single.branches=[depth]'
  python scripts/measure_miniature.py --run "$(folder singles)" \
    --untrained "$(folder singles "suite.root=$scratch/family" 'methods.single.branches=[depth]')" --output "$results/miniature"
fi

runs=()
for name in "${CELLS[@]}"; do
  wanted "$name" || continue
  # shellcheck disable=SC2046
  python -m maxbench run $(experiment "$name") suite=miniature --seeds "$seeds" | tee "$scratch/said"
  pooled=$(sed -n 's/^table: *\(.*\)\/table.md$/\1/p' "$scratch/said" | tail -n 1)
  keep "$pooled" "$name"
  runs+=("$pooled")
done
for name in "${OTHERS[@]}"; do
  wanted "$name" || continue
  # shellcheck disable=SC2046
  python -m maxbench run $(experiment "$name") suite=miniature
  keep "$(folder "$name")" "$name"
done

if ((${#runs[@]})); then
  python -m maxbench compare "${runs[@]}" --baseline all --output "$results/miniature/claim.md"
  python -m maxbench paper --output "$results/paper.md"
fi
