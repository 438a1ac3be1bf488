"""What stands at the end of each command's --help: lines to copy. A test reads them with the command's parser."""

EXAMPLES = {
    "compare": (
        "fremap compare --pages 65536 --caps disk --report runs/compare",
        "fremap compare --rmap all --caps disk --json rows.json",
        "fremap compare --matrix",
    ),
    "dos": ("fremap dos --rmap scan --rmap dirty_index --max-pages 4096",),
    "trackers": ("fremap trackers --pages 4096 --memory tmpfs --tracker uffd_wp --tracker dirty_index",),
    "replay": (
        "fremap replay gzip -o runs/gzip",
        "fremap replay sort.ftr --format i386 --only",
    ),
    "run": (
        "fremap run window --rmap none --accesses 20000 --events --out runs/window",
        "fremap run my_workload.py --help",
    ),
    "watch": (
        "fremap watch /tmp/mnt",
        "fremap watch /tmp/mnt --once --json",
    ),
    "record": (
        "fremap record /tmp/mnt -o runs/dd -- dd if=/dev/zero of=/tmp/mnt/file bs=64k count=8000",
        "fremap record -o sort.ftr -- sort -n numbers.txt",
    ),
    "vmstat": (
        "fremap vmstat runs/window --show meminfo",
        "fremap vmstat --workload window --accesses 20000 --show smaps",
    ),
    "trace": (
        "fremap trace runs/window",
        "fremap trace runs/window --ftrace -o -",
    ),
    "report": (
        "fremap report runs/window",
        "fremap report runs/none runs/index -o runs/both",
    ),
    "mount": (
        "fremap mount /tmp/store /tmp/mnt --dirty-bytes 64M --background-bytes 32M",
        "fremap mount /tmp/store /tmp/mnt --power-cut --metadata",
        "fremap mount /tmp/store /tmp/mnt --override 'wal-*=ramfs'",
    ),
    "umount": ("fremap umount /tmp/mnt",),
    "status": (
        "fremap status",
        "fremap status /tmp/mnt --pauses",
    ),
    "sync": ("fremap sync /tmp/mnt",),
    "inject": (
        "fremap inject /tmp/mnt 'store.write bandwidth=60M'",
        "fremap inject /tmp/mnt 'store.fsync path=*.db nth=3 error=EIO'",
        "fremap inject /tmp/mnt clear",
    ),
    "power-cut": (
        "fremap power-cut /tmp/mnt --report",
        "fremap power-cut /tmp/mnt --survive 7",
        "fremap power-cut /tmp/mnt --at 'store.fsync path=*-journal nth=2'",
    ),
    "tables": (
        "fremap tables --format x86_64",
        "fremap tables --format i386 --live",
    ),
}


def epilog_of(command: str) -> str:
    """Return a command's examples as a list in markdown, which typer wants with empty lines between."""
    return "\n\n".join(["Examples:", *(f"- `{line}`" for line in EXAMPLES[command])])
