#!/usr/bin/env bash
# Takes every figure of docs/benchmarks.md anew and writes the pages: bench/all.sh ENVIRONMENTS [WORK]
#
# ENVIRONMENTS is a folder with what bench/README.md sets up: peers/ (needed), llama-server/ and vllm/ (left out of the
# comparison of servers if they are missing). WORK keeps converted models, packs and logs; it needs some 25 GB for the
# larger shapes. `python` must be that of an environment with Stoker. SHAPES ("1B 3B 8B") and MODEL may be set.
set -euo pipefail

environments=$(realpath "${1:?usage: bench/all.sh ENVIRONMENTS [WORK]}")
work=${2:-${TMPDIR:-/tmp}/stoker-bench}
model=${MODEL:-$HOME/.cache/stoker/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "$work"

peers=$environments/peers/bin/python
others=()
[[ -x $environments/llama-server/bin/llama-server ]] &&
  others+=(--llama-server "$environments/llama-server/bin/llama-server")
[[ -x $environments/vllm/bin/python ]] && others+=(--vllm "$environments/vllm/bin/python")

python bench/engine.py "$model" --peers "$peers" --work "$work" --out bench/results/engine.json
for shape in ${SHAPES-1B 3B 8B}; do
  python bench/shapes.py "$shape" --out "$work"
  python bench/engine.py "$work/llama-$shape-random.Q4_0.gguf" --shape --without-openvino \
    --peers "$peers" --work "$work" --out "bench/results/shape-$shape.json"
done
python bench/speculation.py "$model" --work "$work" --out bench/results/speculation.json
python bench/guessing.py "$model" --work "$work" --out bench/results/guessing.json
python bench/wake.py --out bench/results/wake.json
python bench/lora.py "$model" --out bench/results/lora.json
python bench/grammars.py "$model" --work "$work" --out bench/results/grammars.json
python bench/embeddings.py "$model" --out bench/results/embeddings.json
python bench/overhead.py "$model" --work "$work" --out bench/results/overhead.json
python bench/servers.py "$model" --peers "$peers" "${others[@]}" --work "$work" --out bench/results/servers.json
python bench/report.py
