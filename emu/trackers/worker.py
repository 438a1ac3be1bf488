"""The process that measures: signal handlers and write-protected memory are nothing for the one that asks.

``python -m emu.trackers.worker ORDER``: ORDER is JSON, with the fields of MeasureOrder and `todo`, pairs of a tracker
and a kind of memory. Writes a row for each as a line of JSON.
"""

import json
import sys

from emu.trackers.measure import MeasureOrder, measure


def main(text: str) -> None:
    """Measure everything in turn."""
    order = json.loads(text)
    todo = order.pop("todo")
    for name, memory in todo:
        row = measure(name, memory, MeasureOrder(**order))
        sys.stdout.write(json.dumps(row.as_json()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
