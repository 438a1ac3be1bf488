"""The site is built without a warning, links only to what is there, and needs no network to be read."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.docs.blocks import ROOT

CONFIG = ROOT / "docs" / "mkdocs" / "mkdocs.yml"


def build(config: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    # Not with --quiet: what is not shown is not counted, and then nothing is strict.
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(out)],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    built = build(CONFIG, out)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Page\n\n[there](nowhere.md)\n")
    settings = CONFIG.read_text(encoding="utf-8").partition("validation:\n")[2].partition("\nnav:")[0]
    config = tmp_path / "mkdocs.yml"
    config.write_text(f"site_name: page\nvalidation:\n{settings}")
    built = build(config, tmp_path / "out")
    assert built.returncode == 1
    assert "nowhere.md" in built.stderr


def html_of(site: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|link|source|iframe)\b[^>]*?(?:src|href)=["']?(?:https?:)?//""")
    for path, text in html_of(site).items():
        found = loads.search(text)
        assert found is None, f"{path}: {found and found[0]}"


def test_every_link_leads_somewhere(site: Path) -> None:
    texts = html_of(site)
    ids = {path.resolve(): set(re.findall(r"""\bid=["']?([^"'\s>]+)""", text)) for path, text in texts.items()}
    broken = []
    for path, text in texts.items():
        if path.name == "404.html":
            continue  # its links are those of the server's root
        for link in re.findall(r"""<(?:a|img|link|script)\b[^>]*?(?:href|src)=["']?([^"'\s>]+)""", text):
            if ":" in link.split("/")[0]:
                continue
            name, fragment = urldefrag(unquote(link))
            target = (path.parent / name).resolve() if name else path.resolve()
            if target.is_dir():
                target /= "index.html"
            if not target.exists() or (fragment and target in ids and fragment not in ids[target] | {"__skip"}):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_the_reference_is_made_of_the_help_and_the_docstrings(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for words in ("fremap compare", "fremap power-cut", "fremap run late_store", "--dirty-bytes"):
        assert words in commands
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for words in ("remap_file_pages", "power_off", "stamped_file"):
        assert words in python


def test_the_sites_own_settings_are_no_page(site: Path) -> None:
    assert not (site / "mkdocs").exists()
