#!/usr/bin/env bash
# VNN-COMP: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULT_FILE TIMEOUT
# Writes the verdict (and the witness of a sat) to RESULT_FILE. The exit code is 0 whenever that file says something;
# an input that the tool refuses is written as `error`. TIMEOUT may be 300.0 and may end in a carriage return.
set -uo pipefail

if [ $# -lt 6 ] || [ "$1" != v1 ]; then
  echo "usage: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULT_FILE TIMEOUT (found: $*)" >&2
  exit 1
fi
onnx="$3" vnnlib="$4" result="$5" timeout="${6//[[:space:]]/}"

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
verify="${SECATEUR_VERIFY:-$here/.venv/bin/verify}"
left="${SECATEUR_PID_FILE:-$here/.venv/vnncomp.pid}"
rm -f -- "$result"
mkdir -p "$(dirname "$left")"

"$verify" --timeout "$timeout" --results "$result" --quiet -- "$onnx" "$vnnlib" > /dev/null &
pid=$!
echo "$pid" > "$left"
trap 'kill -TERM "$pid" 2> /dev/null' TERM INT
wait "$pid"
code=$?
# a signal ends `wait` early; the answer is still being written
while kill -0 "$pid" 2> /dev/null; do wait "$pid"; code=$?; done
rm -f "$left"

if [ ! -s "$result" ]; then
  echo error > "$result" || exit 1
  echo "run_instance.sh: verify ended with exit code $code and no verdict" >&2
fi
exit 0
