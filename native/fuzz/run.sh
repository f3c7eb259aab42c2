#!/usr/bin/env bash
# Builds the fuzz targets with clang, libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, runs each on the
# committed corpus and then on changed inputs for a while.
#
# Usage: native/fuzz/run.sh [seconds per target, default 4] [target...]
# FUZZ_BUILD keeps the build, and what is found, in that folder; otherwise both are temporary.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
seconds=${1:-4}
shift || true
targets=("${@:-logit_edits model sampler stored_blocks}")
read -ra targets <<<"${targets[*]}"

if ! command -v clang++ >/dev/null; then
  echo "native/fuzz/run.sh needs clang++ with libFuzzer (Debian: clang and libclang-rt-dev)" >&2
  exit 1
fi
if [[ -n "${FUZZ_BUILD:-}" ]]; then
  work=$FUZZ_BUILD
  mkdir -p "$work"
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
generator='Unix Makefiles'
if command -v ninja >/dev/null; then generator=Ninja; fi

export UBSAN_OPTIONS=print_stacktrace=1
cmake -S "$root" -B "$work/build" -G "$generator" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER=clang++ \
  -DSTOKER_BUILD_FUZZERS=ON -DSTOKER_KERNEL_LEVEL=-O1 >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
cmake --build "$work/build" --parallel "$(nproc)" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

for target in "${targets[@]}"; do
  mkdir -p "$work/found/$target"
  # One bound on the memory of a run and one on the time of an input: more of either is a finding.
  "$work/build/fuzz_$target" -max_total_time="$seconds" -max_len=8192 -rss_limit_mb=2048 -timeout=10 \
    -print_final_stats=1 -artifact_prefix="$work/found/" "$work/found/$target" \
    "$root/native/fuzz/corpus/$target" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  printf '%-14s %s executions\n' "$target" "$(sed -n 's/stat::number_of_executed_units: //p' "$work/log")"
done
