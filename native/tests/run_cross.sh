#!/usr/bin/env bash
# Builds the native tests for AArch64 with Debian's cross compiler and runs them under qemu-user: the NEON path and the
# portable one. Needs CMake, Ninja or Make, aarch64-linux-gnu-g++ and qemu-aarch64 on the PATH (Debian:
# g++-aarch64-linux-gnu and qemu-user); writes to a temporary folder only.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$tool" >/dev/null || { echo "native/tests/run_cross.sh needs $tool" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

generator='Unix Makefiles'
if command -v ninja >/dev/null; then generator=Ninja; fi

cmake -S "$root" -B "$work/build" -G "$generator" -DCMAKE_BUILD_TYPE=Release -DSTOKER_BUILD_TESTS=ON \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static >"$work/log" 2>&1 ||
  { cat "$work/log"; exit 1; }
cmake --build "$work/build" --parallel "$(nproc)" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
echo '-- a processor with DotProd'
qemu-aarch64 -cpu max "$work/build/native_tests"
