#!/usr/bin/env bash
# VNN-COMP: install_tool.sh v1
# Installs the tool into .venv of this repository. PYTHON=... chooses the interpreter (3.11 or newer).
set -euo pipefail

version="${1:-}"
if [ "$version" != v1 ]; then
  echo "install_tool.sh: found interface version '$version', expected 'v1'" >&2
  exit 1
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet .
.venv/bin/verify --help > /dev/null
echo "installed: $(pwd)/.venv/bin/verify"
