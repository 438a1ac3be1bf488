#!/usr/bin/env bash
# Make the traces that come with fremap again: sort, gzip and sqlite3, each at a small task.
#
#   scripts/workloads/traces/record.sh [DIRECTORY]     without DIRECTORY: beside this file
#
# Needs valgrind, sort, gzip, sqlite3 (Debian: apt-get install valgrind sqlite3). What comes out differs a little from
# machine to machine: other versions of the programs and of libc take other ways.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "${1:-$here}" && cd "${1:-$here}" && pwd)
fremap=${FREMAP:-$here/../../../.venv/bin/fremap}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export LC_ALL=C

# Numbers in no order, the same ones every time.
awk 'BEGIN { x = 1; for (i = 0; i < 400; i++) { x = x * 48271 % 2147483647; print x } }' >numbers.txt

record() {
    local name=$1
    shift
    "$fremap" record -o "$name.ftr" -- "$@" >/dev/null
    "$fremap" replay "$name.ftr" --convert "$out/$name.ftr.xz"
}

record sort sort -n numbers.txt
record gzip gzip -6 -c numbers.txt
# A database that is mapped, with a write-ahead log, whose index is shared memory: a file that is mapped and stored into.
record sqlite3 sqlite3 -batch base.db "
    PRAGMA journal_mode = WAL; PRAGMA mmap_size = 1048576;
    CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);
    WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 30) INSERT INTO t SELECT x, hex(x * 48271 % 65537) FROM c;
    CREATE INDEX i ON t (b);
    UPDATE t SET b = b || 'x' WHERE a % 7 = 0;
    SELECT count(*) FROM t WHERE b LIKE '3%';"
