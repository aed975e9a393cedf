#!/usr/bin/env bash
# Make the results about the miniature in results/ anew: bash scripts/reproduce_miniature.sh [RESULTS [OVERRIDE ...]]
#
# First it says what there is to make and, where a run of this machine is there to tell, how long that takes. What was made
# before is found again, so that a stopped script is resumed by the same command. Runs lie in runs/, what is worth keeping
# of them in RESULTS (results/), where it is written when all of them are made. Overrides are for every run.
#
#   SAMPLES=512   of every pair
#   SEEDS=0,1     of the noise, two or more; runs of pairs are pooled over them, the others have the first
#   ONLY=REGEX    of the experiments, to do a part of the work; pages about all of them are then left as they are
#   HOURS=1       say what there is to make, and end
#   ANY_CODE=1    also where the checkout has changes that are not committed: such results are not to be published
set -euo pipefail
cd "$(dirname "$0")/.."
results=${1:-results}
more=("${@:2}")
samples=${SAMPLES:-512}
seeds=${SEEDS:-0,1}
only=${ONLY:-.}

cells=() # every pair, and every kind of pair of it
for pair in hed_depth seg_depth hed_seg; do
  cells+=("$pair" "contradictory_$pair" "half_split_$pair" "cross_$pair")
done
families=() # of the gated sum, searched on training scenes
for pair in hed_depth seg_depth hed_seg; do
  families+=("gated_family_contradictory_$pair")
done
others=(three_conditions style variance_maps threshold threshold_contradictory conditioning_ablation scale adapter_singles)

if [[ $seeds != *,* ]]; then
  echo "reproduce_miniature: SEEDS is '$seeds'; give two or more, with commas between them." >&2
  exit 2
fi
if [[ -z ${ANY_CODE:-} && -n $(git status --porcelain --untracked-files=no -- . ':!results') ]]; then
  echo "reproduce_miniature: the checkout has changes that are not committed; commit them, or set ANY_CODE=1." >&2
  exit 2
fi

words=() # of an experiment's command
describe() {
  words=("experiment=${1#gated_family_}" suite=miniature "${more[@]}")
  case $1 in
    style | variance_maps) return ;;
    gated_family_*)
      words+=(fusion@methods=gated_family baseline=gated_sum data.split=train "samples=$((samples < 128 ? samples : 128))")
      return ;;
    singles) words+=("samples=$((samples < 512 ? samples : 1000))") ;; # of which the bars are
    *) words+=("samples=$samples") ;;
  esac
  [[ " ${cells[*]} " != *" $1 "* ]] || words+=(fusion@methods=claim)
  # one object in six pictures is large enough for a contradictory pair; elsewhere samples are pictures, and 512 are held
  # out as the reference
  case $1 in
    singles) ;; # has scenes for 1,000
    *contradictory*) ((samples <= 250)) || words+=("scenes=$((9 * samples))") ;;
    *) ((samples <= 250)) || words+=("scenes=$((2 * samples + 1024))") ;;
  esac
}
folder() { # of the run of `words` and what else is given
  python -m maxbench run "${words[@]}" "$@" --dry-run | sed -n 's/^run folder: \([^,]*\).*/\1/p'
}

wanted=()
for name in singles "${cells[@]}" "${families[@]}" "${others[@]}"; do
  [[ ! $name =~ $only ]] || wanted+=("$name")
done
echo "What there is to make, each experiment by itself and with one seed:"
for name in "${wanted[@]}"; do
  describe "$name"
  said=$(python -m maxbench run "${words[@]}" --dry-run) # a mistake in it ends the script here
  printf '  %s: ' "$name"
  grep -oE '^(to make: [0-9,]+ images|about .* of generation|how long that takes is not known yet)' <<<"$said" | paste -sd ' '
done
[[ -z ${HOURS:-} ]] || exit 0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

declare -A made first
for name in "${wanted[@]}"; do
  describe "$name"
  if [[ " ${cells[*]} " == *" $name "* ]]; then
    python -m maxbench run "${words[@]}" --seeds "$seeds" | tee "$scratch/said"
    made[$name]=$(sed -n 's/^table: *\(.*\)\/table.md$/\1/p' "$scratch/said" | tail -n 1)
  else
    python -m maxbench run "${words[@]}" "seed=${seeds%%,*}"
    made[$name]=$(folder "seed=${seeds%%,*}")
  fi
  first[$name]=$(folder "seed=${seeds%%,*}")
done
if [[ -n ${made[singles]:-} ]]; then
  describe singles
  python scripts/measure_miniature.py --write-untrained "$scratch/family"
  untrained=("suite.root=$scratch/family" "seed=${seeds%%,*}" 'methods.single.branches=[depth]')
  python -m maxbench run "${words[@]}" "${untrained[@]}"
  python scripts/measure_miniature.py --run "${made[singles]}" --untrained "$(folder "${untrained[@]}")" \
    --output "$results/miniature"
fi

for name in "${wanted[@]}"; do
  [[ $name == singles ]] || python scripts/keep_results.py "${made[$name]}" "$results/$name" --first "${first[$name]}"
done
if [[ $only == . ]]; then
  pooled=()
  for name in "${cells[@]}"; do pooled+=("${made[$name]}"); done
  python -m maxbench compare "${pooled[@]}" --baseline all --output "$results/miniature/claim.md"
  python scripts/validate_metrics.py "${first[contradictory_hed_depth]}" "${first[contradictory_seg_depth]}" "${first[seg_depth]}" \
    --output "$results/metrics_validity.md"
fi
