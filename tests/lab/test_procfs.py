"""The emulated /proc: what reads the kernel's reads fremap's, and finds the same for the same calls."""

import ctypes
import json
import mmap
import os
from pathlib import Path

import psutil
import pytest

from emu.cli import frame
from emu.lab import procfs
from emu.lab.vmstat_series import VMSTAT, read_vmstat_series
from emu.machine import Machine
from emu.mm.mmap import MAP_NONBLOCK
from emu.report.procfs_text import maps_text, meminfo_text, smaps_text, vmstat_text, write_proc

PAGE = 4096
TOUCHED = (0, 3, 4)
NR_PAGES = 8


def read_counters(text: str) -> dict[str, int]:
    """Read vmstat or meminfo, whose lines are a name, a colon perhaps, a number, and a unit perhaps."""
    return {line.split()[0].rstrip(":"): int(line.split()[1]) for line in text.splitlines()}


def read_smaps(text: str) -> dict[int, dict[str, str]]:
    """Return the fields of each mapping by its first address, its line of maps among them."""
    found: dict[int, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name.endswith(":"):
            fields[name[:-1]] = rest.strip()
        else:
            fields = found[int(name.split("-")[0], 16)] = {"maps": line}
    return found


def read_pagemap(path: Path, vaddr: int, nr_pages: int) -> list[int]:
    """Return the words of pages as every reader of pagemap finds them."""
    with path.open("rb", buffering=0) as file:
        file.seek(vaddr // PAGE * 8)
        data = file.read(nr_pages * 8)
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


def test_the_kernels_and_the_emulated_proc_say_the_same_of_the_same_memory(tmp_path: Path) -> None:
    with mmap.mmap(-1, NR_PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        real_vaddr = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in TOUCHED:
            memory[page * PAGE] = 1
        own = Path("/proc/self")
        real = next(
            fields
            for start, fields in read_smaps((own / "smaps").read_text()).items()
            if start <= real_vaddr < int(fields["maps"].split()[0].split("-")[1], 16)
        )
        real_words = read_pagemap(own / "pagemap", real_vaddr, NR_PAGES)
    with Machine(ram="8M") as machine:
        process = machine.spawn()
        mapping = process.mmap(-1, NR_PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in TOUCHED:
            mapping[page * PAGE] = 1
        write_proc(machine.kernel, tmp_path, pagemaps=True)
        own = tmp_path / str(procfs.pid_of(process.mm.ident))
        emulated = read_smaps((own / "smaps").read_text())[mapping.vaddr]
        words = read_pagemap(own / "pagemap", mapping.vaddr, NR_PAGES)
    # Present and mapped once where touched; not of a file, not on swap.
    assert [word >> 63 for word in words] == [int(page in TOUCHED) for page in range(NR_PAGES)]
    flags = (1 << 63) | (1 << 62) | (1 << 61) | (1 << 56)
    assert [word & flags for word in words] == [word & flags for word in real_words]
    # The kernel may have merged its mapping with a neighbour: then its numbers are those of both.
    if real["Size"] == emulated["Size"]:
        for name in ("Rss", "Pss", "Private_Dirty", "Private_Clean", "Shared_Dirty", "Anonymous", "Referenced"):
            assert emulated[name] == real[name], name
    assert emulated["maps"].split()[1:5] == ["rw-p", "00000000", "00:00", "0"]
    assert set(emulated["VmFlags"].split()) >= {"rd", "wr", "mr", "mw", "me"}
    assert set(emulated) <= set(real) | {"Nonlinear"}


def test_readers_of_proc_read_the_emulated_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(NR_PAGES * PAGE))
    with Machine(ram="8M", plain_caps="disk") as machine:
        process = machine.spawn()
        with process.mmap(str(path), 0) as mapping:
            mapping[0] = 1
            mapping[5 * PAGE] = 1
            write_proc(machine.kernel, tmp_path / "proc")
            meminfo, vmstat = procfs.meminfo(machine.kernel), procfs.vmstat(machine.kernel)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    memory = psutil.virtual_memory()
    assert memory.total == meminfo["MemTotal"] * 1024 == 8 << 20
    assert memory.cached == NR_PAGES * PAGE
    assert memory.free == meminfo["MemFree"] * 1024
    for name, text in (("meminfo", meminfo_text(meminfo)), ("vmstat", vmstat_text(vmstat))):
        ours, theirs = read_counters(text), read_counters(Path("/proc", name).read_text())
        assert ours == read_counters((tmp_path / "proc" / name).read_text())
        shared = set(ours) & set(theirs)
        assert len(shared) >= 20, shared
    assert meminfo["Dirty"] == 2 * PAGE // 1024
    assert vmstat["nr_dirty"] == 2
    assert set(meminfo) <= set(read_counters(Path("/proc/meminfo").read_text()))


def test_a_file_that_two_processes_map_out_of_order_is_shared_and_nonlinear(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(NR_PAGES * PAGE))
    with Machine(ram="8M") as machine:
        process = machine.spawn()
        mapping = process.mmap(str(path), 0)
        process.remap_file_pages(mapping.vaddr, PAGE, 0, 7)
        process.remap_file_pages(mapping.vaddr + PAGE, PAGE, 0, 6, MAP_NONBLOCK)
        process.mlock(mapping.vaddr + 7 * PAGE, PAGE)
        process.fork()
        found = read_smaps(smaps_text(machine.kernel, process.mm))
        fields, locked = found[mapping.vaddr], found[mapping.vaddr + 7 * PAGE]
        # Page 7 of the file is mapped at both of its places, by both processes.
        assert (fields["Rss"], fields["Pss"], fields["Nonlinear"]) == ("4 kB", "1 kB", "8 kB")
        assert fields["Shared_Clean"] == "4 kB"
        assert "nl" in fields["VmFlags"].split()
        assert locked["Rss"] == "4 kB"
        assert "lo" in locked["VmFlags"].split()
        line = maps_text(machine.kernel, process.mm).splitlines()[0].split()
        status = path.stat()
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        assert line[1:] == ["rw-s", "00000000", device, str(status.st_ino), str(path)]
        words = procfs.pagemap(machine.kernel, process.vmas[0])
        assert int(words[0]) >> 61 & 5 == 5
        assert not words[1]


def test_pages_on_swap_and_pages_given_up_are_told() -> None:
    nr_pages = 96
    with Machine(ram=64 * PAGE, swap="1M", io_depth=0, huge_pages=False) as machine:
        process = machine.spawn()
        mapping = process.mmap(-1, nr_pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(nr_pages):
            mapping[page * PAGE] = 1
        child = process.fork()
        k = machine.kernel
        words = procfs.pagemap(k, process.vmas[0]).tolist()
        fields = read_smaps(smaps_text(k, process.mm))[mapping.vaddr]
        nr_swapped = sum(word >> 62 & 1 for word in words)
        assert nr_swapped >= nr_pages - 64
        assert fields["Swap"] == f"{nr_swapped * 4} kB"
        # The child has the same pages out: each has half.
        assert fields["SwapPss"] == f"{nr_swapped * 2} kB"
        assert int(fields["Rss"].split()[0]) == 4 * sum(word >> 63 for word in words)
        slots = {word >> 5 & (1 << 50) - 1 for word in words if word >> 62 & 1}
        assert len(slots) == nr_swapped
        meminfo = procfs.meminfo(k)
        assert meminfo["SwapTotal"] - meminfo["SwapFree"] >= nr_swapped * 4
        child.exit()
        alone = read_smaps(smaps_text(k, process.mm))[mapping.vaddr]
        assert alone["SwapPss"] == alone["Swap"]


def test_the_command_prints_a_runs_proc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["run", "shuffle", "--pages", "40", "--on", str(tmp_path), "--out", str(out), "--proc"]
    assert frame.run(arguments) == 0
    capsys.readouterr()
    assert frame.run(["vmstat", str(out)]) == 0
    counters = read_counters(capsys.readouterr().out)
    assert counters == json.loads((out / "counters.json").read_text())["vmstat"]
    assert frame.run(["vmstat", str(out), "--show", "meminfo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["MemTotal"] > 0
    # Counters over time: the last line is what the run ended with.
    series = read_vmstat_series(out)
    assert series[-1]["pgfault"] == counters["pgfault"]
    assert [row["time_s"] for row in series] == sorted(row["time_s"] for row in series)
    # Of a run that was killed there is no more than that.
    (out / "counters.json").unlink()
    with (out / VMSTAT).open("a") as file:
        file.write("12.5,77")
    assert frame.run(["vmstat", str(out)]) == 0
    assert read_counters(capsys.readouterr().out)["pgfault"] == counters["pgfault"]
    assert frame.run(["report", str(out)]) == 0
    assert "vmstat: pgfault" in (out / "index.html").read_text()


def test_a_workload_is_run_for_its_proc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "touch.py"
    script.write_text(
        "from emu.lab.lab import Lab\n"
        "def touch(lab: Lab, *, pages: int = 4) -> None:\n"
        "    '''Touch.'''\n"
        "    process = lab.boot().spawn()\n"
        "    mapping = process.mmap(lab.stamped_file('touch.dat', pages), 0)\n"
        "    mapping[0] = 1\n"
    )
    arguments = ["vmstat", "--workload", str(script), "--on", str(tmp_path), "--pages", "6"]
    for show, says in (("smaps", "Size:                 24 kB"), ("maps", "rw-s"), ("pagemap", "present, file")):
        assert frame.run([*arguments, "--show", show]) == 0
        assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one RUN directory"),
        (["a", "b"], "give one RUN directory"),
        (["{run}", "--show", "nothing"], "there are vmstat, meminfo"),
        (["{run}"], "keeps no vmstat"),
        (["{run}", "--show", "smaps"], "run it with --proc"),
        (["/no/such/run"], "no run directory"),
        (["--workload", "nothing"], "no workload"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text('{"version": 1, "name": "record"}')
    code = 2 if "--show nothing" in " ".join(arguments) else 1  # a wrong option, or nothing to show
    assert frame.run(["vmstat", *(word.format(run=run) for word in arguments)]) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
