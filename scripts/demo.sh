#!/usr/bin/env bash
# Set up, then run the main job: which reverse maps lose writes, and what does each cost?
#
#   scripts/demo.sh [options of fremap compare]
#
# Leaves a picture and an HTML page in runs/demo.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec .venv/bin/fremap compare --report runs/demo "$@"
