"""The report of runs: its numbers are those recorded, its pictures are of them, and a browser shows all of it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from emu.cli import frame
from emu.lab.observe import FIELDS, Sample
from emu.lab.window_map import PageState, read_looks
from emu.mm_types.events import EventKind
from emu.report.machine_pictures import MachineRecord, draw_faults, draw_latency, fault_kinds
from emu.report.run_facts import format_us
from emu.report.run_pictures import LEAST_SERIES, memory_of, save_run_pictures
from emu.report.runs import Run, load_run, totals
from emu.report.timeline import draw_amplification, draw_dirty, draw_law, law_points
from emu.report.window_pictures import draw_window
from emu.units import MIB

WINDOW = ("window", "--pool", "400", "--window", "64", "--accesses", "3000", "--checkpoint-every", "500")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the window, under none and under dirty_index, and their common report."""
    directory = tmp_path_factory.mktemp("report")
    for rmap in ("none", "dirty_index"):
        options = ["--rmap", rmap, "--events", "--on", str(directory), "--out", str(directory / rmap)]
        assert frame.run(["run", *WINDOW, *options]) == 0
    both = [str(directory / rmap) for rmap in ("none", "dirty_index")]
    assert frame.run(["report", *both, "-o", str(directory / "both")]) == 0
    return directory


def rows_of(page: str) -> Iterator[tuple[str, list[str]]]:
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL):
        cells = [unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
        if cells:
            yield cells[0], cells[1:]


def recorded_mount(seconds: int = 4) -> list[Sample]:
    """Samples of a mount that dirties 40 MiB/s for ever, at 0.1 s each, with a disk that writes 20."""
    made = []
    for step in range(seconds * 10):
        at = step / 10
        dirty = min(20 * at, 60.0)
        told = {
            "time_s": 100 + at,
            "dirty": int(dirty * MIB),
            "own_limit": 64 * MIB,
            "limit": 64 * MIB,
            "background": 32 * MIB,
            "dirtied": int(40 * at * MIB),
            "written": int((40 * at - dirty) * MIB),
            "bandwidth": 20 * MIB,
            "disk_written": int(2 * (40 * at - dirty) * MIB),
        }
        made.append(Sample.from_mapping(dict.fromkeys(FIELDS, 0) | told))
    return made


def test_every_number_of_the_page_is_one_that_was_recorded(place: Path) -> None:
    page = (place / "both" / "index.html").read_text()
    shown = dict(rows_of(page))
    recorded = [json.loads((place / rmap / "counters.json").read_text()) for rmap in ("none", "dirty_index")]
    compared = 0
    for group in ("outcome", "vmstat", "rmap"):
        for name in recorded[0][group]:
            values = [counters[group][name] for counters in recorded]
            if not any(values) and group != "outcome":
                continue  # what never moved is left out
            cells = shown[f"{group}: {name}"]
            for cell, value in zip(cells[:2], values, strict=True):
                if cell != "-":
                    assert float(cell.replace(",", "")) == pytest.approx(value, rel=1e-3), name
                    compared += 1
    assert compared > 60
    assert shown["outcome: pages_with_lost_updates"][1:] == ["0", "-100.0 %"]


def test_the_pictures_of_both_runs_stand_side_by_side(place: Path) -> None:
    names = sorted(path.name for path in (place / "both").glob("*.png"))
    drawn = ["memory.png"]
    for number, rmap in enumerate(("none", "dirty_index"), 1):
        over_time = len(load_run(place / rmap).series) >= LEAST_SERIES  # a fast machine is done before there is a line
        each = ("faults", "latency", "machine_dirty", "window") if over_time else ("faults", "latency", "window")
        drawn += [f"{number}-{name}.png" for name in each]
    assert names == sorted(drawn)


def test_faults_in_the_picture_are_the_events(place: Path) -> None:
    run = load_run(place / "dirty_index")
    kinds = fault_kinds(run.events)
    assert sum(int(chosen.sum()) for chosen in kinds.values()) == int((run.events["kind"] == EventKind.FAULT).sum())
    axes = draw_faults(MachineRecord(run.series, run.events)).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    told = {line.get_text() for line in legend.get_texts()}
    assert told == {f"{name}: {int(chosen.sum()):,}" for name, chosen in kinds.items() if chosen.any()}
    # The bars' areas are the counts.
    area = sum(bar.get_height() * bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle))
    assert area == pytest.approx(sum(int(chosen.sum()) for chosen in kinds.values()))


def test_latencies_end_at_a_hundred_percent(place: Path) -> None:
    run = load_run(place / "none")
    axes = draw_latency(MachineRecord(run.series, run.events)).axes[0]
    lines = axes.get_lines()
    assert lines
    for line in lines:
        assert np.max(np.asarray(line.get_ydata())) == 100


@pytest.mark.parametrize("rmap", ["none", "dirty_index"])
def test_the_window_shows_the_hole(place: Path, rmap: str) -> None:
    before, after = read_looks(place / rmap)
    assert len(before.states) == len(after.states) == 64
    assert (before.pgoffs >= 0).all()
    assert before.count(PageState.DIRTY) > 0
    assert after.count(PageState.DIRTY) == after.count(PageState.WRITEBACK) == 0
    if rmap == "none":
        assert after.count(PageState.UNNOTICED) > 10
    else:
        assert before.count(PageState.UNNOTICED) == after.count(PageState.UNNOTICED) == 0
    figure = draw_window([before, after])
    drawn = [sum(np.size(line.get_xdata()) for line in axes.get_lines()) for axes in figure.axes]
    assert drawn == [64, 64]


def test_memory_is_the_counters(place: Path) -> None:
    run = load_run(place / "dirty_index")
    found = memory_of(run)
    assert found is not None
    tables, own = found
    assert own == run.counters["rmap"]["nbytes_peak"] > 0
    assert tables == max(row["nr_page_table_pages"] for row in run.series) * 4096


def test_the_law_has_points_where_the_writer_was() -> None:
    points = law_points(recorded_mount())
    assert points
    for share, rate in points:
        assert rate == pytest.approx(2.0, rel=0.01)
        assert 0 <= share <= 60 / 64
    figure = draw_law(recorded_mount())
    assert np.size(figure.axes[0].get_lines()[1].get_xdata()) == len(points)


def test_amplification_and_limits_are_the_samples() -> None:
    samples = recorded_mount()
    dirtied, written, disk = draw_amplification(samples).axes[0].get_lines()
    ends = [float(np.asarray(line.get_ydata())[-1]) for line in (dirtied, written, disk)]
    assert ends == pytest.approx([40 * 3.9, 40 * 3.9 - 60, 2 * (40 * 3.9 - 60)])
    limit, setpoint, background = draw_dirty(samples).axes[0].get_lines()
    levels = [set(np.asarray(line.get_ydata()).tolist()) for line in (limit, setpoint, background)]
    assert levels == [{64.0}, {56.0}, {32.0}]


def test_a_run_that_recorded_nothing_has_no_pictures(tmp_path: Path) -> None:
    run = Run(tmp_path, {"name": "work", "config": {}}, {}, [])
    assert save_run_pictures([run], tmp_path) == []
    assert totals(run) == {}


def test_a_browser_shows_all_of_it(place: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    page, shot = tmp_path / "page.html", tmp_path / "shot.png"
    # The page itself asks whether each picture was decoded and whether it is wider than the window.
    asks = (
        "<script>onload=()=>document.title=[[...document.images].every(i=>i.naturalWidth>500),"
        "document.images.length,document.body.scrollWidth<=innerWidth]</script>"
    )
    page.write_text((place / "both" / "index.html").read_text() + asks)
    common = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
              "--virtual-time-budget=5000", "--window-size=1440,2600"]  # fmt: skip
    shown = subprocess.run(
        [*common, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    nr_pictures = len(list((place / "both").glob("*.png")))
    assert nr_pictures >= 7
    assert f"<title>true,{nr_pictures},true</title>" in shown.stdout
    subprocess.run([*common, f"--screenshot={shot}", page.as_uri()], capture_output=True, check=False, timeout=120)
    pixels = (matplotlib.image.imread(shot)[:, :, :3] * 255).round().astype(np.uint8)
    assert pixels.shape[:2] == (2600, 1440)
    # Each of the two columns has the colours of its own window: clean and dirty in both, the hole on the left only.
    left, right = pixels[:, :720], pixels[:, 720:]
    for half in (left, right):
        assert (half == (0xD5, 0x5E, 0x00)).all(axis=2).sum() > 200
        assert (half == (0x56, 0xB4, 0xE9)).all(axis=2).sum() > 200


def test_a_report_is_not_written_into_another_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (place / "none" / "manifest.json").read_bytes()
    for command in (
        ["report", str(place / "dirty_index"), "-o", str(place / "none")],
        ["compare", "--pages", "64", "--report", str(place / "none")],
    ):
        assert frame.run(command) == 1
        option = "--report" if "--report" in command else "--out"
        assert f"none holds a run already: give another {option}, or remove it" in capsys.readouterr().err
    assert (place / "none" / "manifest.json").read_bytes() == before
    assert not (place / "none" / "index.html").exists()


def test_runs_side_by_side_have_their_directories_names_and_times_stand_apart(place: Path) -> None:
    page = (place / "both" / "index.html").read_text()
    assert '<th class="name"></th><th>none</th><th>dirty_index</th><th>change</th>' in page
    counts, _, times = page.partition("<h2>Times")
    assert "us_per_access" not in counts
    assert "outcome: us_per_access" in times


@pytest.mark.parametrize(
    ("us", "shown"), [(37.25, "37.2 us"), (999.9, "1 ms"), (179900.0, "180 ms"), (2.5e6, "2.5 s"), (5e9, "5,000 s")]
)
def test_latencies_have_a_unit_that_people_name(us: float, shown: str) -> None:
    assert format_us(us) == shown
