#!/usr/bin/env bash
# Set up, then every check: ruff, mypy, import-linter, pytest. Arguments go to pytest.
#
#   scripts/test.sh                      all
#   scripts/test.sh tests/emu -k remap   some
#   FREMAP_REQUIRE=fuse,disk scripts/test.sh   a facility that is missing fails instead of skipping
#
# Every check runs, whatever the one before said; pytest's closing line comes last.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
PATH="$PWD/.venv/bin:$PATH"
failed=()
for check in "ruff check" mypy lint-imports; do
    echo "test: $check"
    $check || failed+=("$check")
done
echo "test: pytest $*"
pytest "$@" || failed+=(pytest)
if [ ${#failed[@]} -gt 0 ]; then
    printf 'test: failed:' >&2
    printf ' %s;' "${failed[@]}" >&2
    printf '\n' >&2
    exit 1
fi
