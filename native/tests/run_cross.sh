#!/usr/bin/env bash
# Builds the native tests for other processors than this machine's and runs them under qemu-user:
#   AArch64 with DotProd (the NEON path) and without (the portable path), built by Debian's cross compiler;
#   on x86-64, processors with AVX2 and no AVX-512, and with neither, where any instruction that the chosen path should
#   not have used ends the program.
# Says what it leaves out for want of a tool (Debian: g++-aarch64-linux-gnu, qemu-user). Needs CMake and Ninja or Make;
# writes to a temporary folder only.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

generator='Unix Makefiles'
if command -v ninja >/dev/null; then generator=Ninja; fi

build() { # folder, options of CMake: statically linked, so that qemu needs no libraries of the other processor
  cmake -S "$root" -B "$work/$1" -G "$generator" -DCMAKE_BUILD_TYPE=Release -DSTOKER_BUILD_TESTS=ON \
    -DCMAKE_EXE_LINKER_FLAGS=-static "${@:2}" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  cmake --build "$work/$1" --parallel "$(nproc)" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
}

expect_path() { # path, emulator and program
  local name=$1
  shift
  "$@" "exact sums $name" | grep -q "exact sums $name *ok" || { echo "the path $name did not run" >&2; exit 1; }
}

missing() { # tools
  local tool
  for tool in "$@"; do
    if ! command -v "$tool" >/dev/null; then
      echo "-- left out: there is no $tool"
      return 0
    fi
  done
  return 1
}

echo '-- AArch64'
if ! missing aarch64-linux-gnu-g++ qemu-aarch64; then
  build aarch64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
  tests=$work/aarch64/native_tests
  expect_path neon qemu-aarch64 -cpu neoverse-n1 "$tests"
  qemu-aarch64 -cpu neoverse-n1 "$tests" --threads=2 thread float halves packing stored bad neon \
    'numbers portable' 'sums portable' 'values portable' 'sampler portable'
  echo '-- AArch64 without DotProd'
  expect_path portable qemu-aarch64 -cpu cortex-a53 "$tests"
  if qemu-aarch64 -cpu cortex-a53 "$tests" 'exact sums neon' | grep 'ok,'; then
    echo 'the NEON path was offered to a processor without DotProd' >&2
    exit 1
  fi
fi

echo '-- x86-64 without AVX-512, then without AVX2'
if [[ $(uname -m) != x86_64 ]]; then
  echo '-- left out: this is no x86-64 machine'
elif ! missing qemu-x86_64; then
  build x86_64
  tests=$work/x86_64/native_tests
  # All that qemu knows, which ends with AVX2. No golden numbers: qemu 7.2 takes subnormal halves for zero in
  # `vcvtph2ps` when MXCSR says so for operands; processors do not.
  expect_path avx2 qemu-x86_64 -cpu max "$tests"
  qemu-x86_64 -cpu max "$tests" 'sums avx2' 'values avx2' 'sampler avx2' bad
  expect_path portable qemu-x86_64 -cpu Nehalem "$tests"
  qemu-x86_64 -cpu Nehalem "$tests" float halves packing stored bad 'numbers portable' 'sums portable' \
    'values portable' 'sampler portable'
fi
