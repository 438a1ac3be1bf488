#!/usr/bin/env bash
# Set up, then every check: ruff, mypy, import-linter, pytest. Arguments go to pytest.
#
#   scripts/test.sh                      all
#   scripts/test.sh tests/emu -k remap   some
#   FREMAP_REQUIRE=fuse,disk scripts/test.sh   a facility that is missing fails instead of skipping
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
PATH="$PWD/.venv/bin:$PATH"
ruff check
mypy
lint-imports
exec pytest "$@"
