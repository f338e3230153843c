#!/usr/bin/env bash
# Every latency that a CUDA GPU owes to docs/latency.md: bash tools/gpu_latency.sh OUT
#
# Measures the zoo and EfficientNets, a table of blocks, a device file fitted to it, and how both add
# up to whole networks; then whole detectors, where MMDetection is installed. Run it again after an
# interruption: files that are there are kept, and a table goes on where it stopped. With
# OUT=docs/results/latency, `python tools/report.py` writes the figures into docs/latency.md.
#
# Where there is no GPU, a rehearsal of a few minutes:
#   DEVICE=cpu RUNTIME=channels_last PRECISION=fp32 MODELS="prunet_demo resnet10t" SIZE=64 \
#   BATCHES="1 2" BLOCKS_OF=prunet_demo VARIANTS=2 NETWORKS=2 TIME=0.05 DETECTORS= \
#   bash tools/gpu_latency.sh /tmp/rehearsal
set -euo pipefail
out=${1:?usage: bash tools/gpu_latency.sh OUT}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."

zoo="gpunet_0 gpunet_1 gpunet_2 gpunet_d1 gpunet_d2 prunet_demo prunet_p0 prunet_p1"
python=${PYTHON:-.venv/bin/python}
device=${DEVICE:-cuda}
name=${NAME:-gpu}           # the files' names begin with it
models=${MODELS:-$zoo efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3}
batches=${BATCHES:-1 8}
size=${SIZE:-512}           # of backbones, blocks and detectors, in pixels
blocks_of=${BLOCKS_OF:-prunet_p0}
variants=${VARIANTS:-7}     # inner widths of every kind and kernel
networks=${NETWORKS:-20}    # random ones, of the table's blocks
seconds=${TIME:-2}
detectors=${DETECTORS-configs/prunet_effdet_coco.py configs/efficientnet_effdet_coco.py}
running=(--runtime "${RUNTIME:-cuda_graph}" --precision "${PRECISION:-fp16}" --device "$device")

latency() { "$python" tools/latency.py "$@" --json; }

# measure FILE.csv ARGUMENTS...: one interleaved run, unless its file is there.
measure() {
  local file=$1; shift
  [ -e "$file" ] && { echo "kept: $file"; return; }
  latency measure "$@" "${running[@]}" --seconds "$seconds" --out "$file" > /dev/null
}

flags=()
for model in $models; do flags+=(--model "$model"); done
for batch in $batches; do
  measure "$out/${name}_backbone_b$batch.csv" "${flags[@]}" \
    --scope backbone --input-size "$size" --batch "$batch"
  measure "$out/${name}_classifier_b$batch.csv" "${flags[@]}" --scope classifier --batch "$batch"
done

table=$out/${name}_blocks.json
latency table --model "$blocks_of" --variants "$variants" --input-size "$size" "${running[@]}" \
  --out "$table"
latency calibrate --from "$table" --out "$out/${name}_device.json"
[ -e "$out/${name}_check.csv" ] || latency check "$table" --device "$device" \
  --networks "$networks" --fitted "$out/${name}_device.json" --seconds "$seconds" \
  --out "$out/${name}_check.csv" | tail -n 1

for config in $detectors; do
  for scope in detector e2e; do
    measure "$out/${name}_${scope}_$(basename "$config" .py).csv" --model "$config" \
      --scope "$scope" --input-size "$size"
  done
done
echo "done: $out"
