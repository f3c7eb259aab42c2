#!/usr/bin/env bash
# Builds and runs the native tests under AddressSanitizer with UndefinedBehaviorSanitizer, then under ThreadSanitizer:
# there the fastest path alone, since all share the code that threads meet in.
# Needs CMake, a C++ compiler and Ninja or Make on the PATH; writes to a temporary folder only.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

generator='Unix Makefiles'
if command -v ninja >/dev/null; then generator=Ninja; fi

# GCC aligns 64-byte vectors on the stack and its runtime's substitute for the stack does not (GCC bug 110027).
export ASAN_OPTIONS=detect_stack_use_after_return=0
export UBSAN_OPTIONS=print_stacktrace=1
for sanitizers in address,undefined thread; do
  echo "-- $sanitizers"
  options=()
  if [[ $sanitizers == thread ]]; then options=(--fastest); fi
  build="$work/${sanitizers//,/-}"
  cmake -S "$root" -B "$build" -G "$generator" -DCMAKE_BUILD_TYPE=Release \
    -DSTOKER_BUILD_TESTS=ON -DSTOKER_SANITIZE="$sanitizers" -DSTOKER_KERNEL_LEVEL=-O1 >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  cmake --build "$build" --parallel "$(nproc)" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  "$build/native_tests" "${options[@]}"
done
