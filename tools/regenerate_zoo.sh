#!/usr/bin/env bash
# The commands that prunet_n, t, s, m and l come from: bash tools/regenerate_zoo.sh OUT [FLAGS].
# On the machine, with the versions and the seed that a spec names, each gives the same file again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bash tools/regenerate_zoo.sh OUT [FLAGS]}
shift
python=.venv/bin/python
[ -x "$python" ] || python=python3
while read -r name budget factor; do
  "$python" tools/search_backbone.py configs/search/zoo.py --budget-ms "$budget" --device v100 --batch 1 \
    --input-size 512 --seed 0 --name "$name" --cfg-options space.width_factor="$factor" --out "$out/$name" --resume "$@"
done <<'NETWORKS'
prunet_n 0.5 0.75
prunet_t 0.65 1.0
prunet_s 0.83 1.0
prunet_m 1.09 1.25
prunet_l 1.8 1.75
NETWORKS
