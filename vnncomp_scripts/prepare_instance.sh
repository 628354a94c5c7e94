#!/usr/bin/env bash
# VNN-COMP: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
# There is nothing to prepare: no conversion, no per-category configuration. Ends processes of this tool that an earlier
# instance may have left behind, and checks the files. ONNX may be a Python list of (name, path) pairs.
set -euo pipefail

if [ $# -lt 4 ] || [ "$1" != v1 ]; then
  echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB (found: $*)" >&2
  exit 1
fi
onnx="$3" vnnlib="$4"

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
left="${SECATEUR_PID_FILE:-$here/.venv/vnncomp.pid}"
if [ -f "$left" ]; then
  pid="$(cat "$left")"
  # only if that process still is ours: numbers are used again
  if tr '\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null | grep -q verify; then kill -9 "$pid" 2> /dev/null || true; fi
  rm -f "$left"
fi

for file in "$vnnlib" "$onnx"; do
  case "$file" in
    \[*) continue ;;
  esac
  if [ ! -f "$file" ] && [ ! -f "$file.gz" ]; then
    echo "prepare_instance.sh: no such file: $file" >&2
    exit 1
  fi
done
