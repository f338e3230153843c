#!/usr/bin/env bash
# The one search that prunet_n, t, s, m and l come from: bash tools/regenerate_zoo.sh OUT [FLAGS].
# The command, at the commit, with the versions and on the machine that its record names, gives the
# same files. They take the place of the zoo's, unless FLAGS, such as `--cfg-options search.paths=1`,
# made it another search; `python tools/report.py` then writes cards and tables anew.
# OUT is relative to the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bash tools/regenerate_zoo.sh OUT [FLAGS]}
shift
python=.venv/bin/python
[ -x "$python" ] || python=python3
OMP_NUM_THREADS=1 "$python" tools/search_backbone.py configs/search/zoo.py \
  --budget-ms 0.5 0.65 0.83 1.09 1.8 --device v100 --batch 1 --input-size 512 \
  --names prunet_n prunet_t prunet_s prunet_m prunet_l --out "$out" --resume "$@"
[ $# -eq 0 ] || exit 0
found=docs/results/search/found/zoo
for network in n:0.5 t:0.65 s:0.83 m:1.09 l:1.8; do
  folder=${network#*:}ms
  mkdir -p "$found/$folder"
  cp "$out/$folder/arch.json" "$out/$folder/run.json" "$found/$folder/"
  cp "$out/$folder/arch.json" "prunet_det/zoo/specs/prunet_${network%%:*}.json"
done
cp "$out/run.json" "$found/"
