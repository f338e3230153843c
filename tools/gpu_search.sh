#!/usr/bin/env bash
# On a CUDA GPU: the full space searched for five budgets, and the comparison with chance on glyphs.
#   bash tools/gpu_search.sh OUT [FLAGS of every search]
# Interrupted, it goes on where it stopped. OUT/*/report.md, run.json and arch.json are for
# docs/results/search/gpu; OUT/compare holds the records of the comparison.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bash tools/gpu_search.sh OUT [FLAGS]}
shift
flags=("$@")
[ ${#flags[@]} -gt 0 ] || flags=(--amp)
python=.venv/bin/python
[ -x "$python" ] || python=python3
"$python" tools/make_data.py glyphs --crops
while read -r name budget factor; do
  "$python" tools/search_backbone.py configs/search/prunet.py --budget-ms "$budget" --device v100 \
    --batch 1 --input-size 512 --seed 0 --name "$name" --out "$out/$name" --resume "${flags[@]}" \
    --cfg-options space.width_factor="$factor"
done <<'NETWORKS'
prunet_n 0.5 0.375
prunet_t 0.65 0.5
prunet_s 0.83 0.75
prunet_m 1.09 1.0
prunet_l 1.8 1.0
NETWORKS
"$python" tools/search_backbone.py compare --config configs/search/prunet.py --budget-ms 0.83 \
  --random 20 --seeds 3 --train-seeds 3 --out "$out/compare"
