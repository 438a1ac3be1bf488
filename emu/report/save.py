"""Write a page: the one place that knows what a path may hold."""

from pathlib import Path


def save_page(path: Path, html: str) -> None:
    """Write a page as UTF-8; bytes of a path that are none are shown as escapes, since a page cannot hold them."""
    path.write_text(html, encoding="utf-8", errors="backslashreplace")
