"""The file exerciser on each preset and cache setting; the long runs are behind the marker slow."""

from collections.abc import Callable

import pytest

from fsbackend.mount import TemporaryMount
from fsbackend.throttle import DirtyParams
from tests.fuse.exerciser import exercise

pytestmark = pytest.mark.fuse

BUSY = DirtyParams(background_bytes=64 << 10, dirty_bytes=4 << 20, expire_s=0.05, periodic_s=0.02)
"""A flusher that is never at rest, so that writeback meets every operation."""


@pytest.mark.parametrize("caps", ["disk", "disk,stable_writes", "strict", "ramfs"])
def test_exercise(make_mount: Callable[..., TemporaryMount], caps: str) -> None:
    exercise(make_mount(caps, params=BUSY), 1, 1_500)


def test_exercise_a_direct_store(make_mount: Callable[..., TemporaryMount]) -> None:
    exercise(make_mount("disk", params=BUSY, direct=True), 3, 1_500)


def test_exercise_with_pre_images(make_mount: Callable[..., TemporaryMount]) -> None:
    exercise(make_mount("disk", params=BUSY, power_cut=True), 4, 1_500)


def test_exercise_with_a_lazy_flusher(make_mount: Callable[..., TemporaryMount]) -> None:
    exercise(make_mount("disk"), 2, 1_500)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [10, 11, 12])
@pytest.mark.parametrize("caps", ["disk", "disk,stable_writes", "strict", "ramfs"])
def test_exercise_long(make_mount: Callable[..., TemporaryMount], caps: str, seed: int) -> None:
    exercise(make_mount(caps, params=BUSY), seed, 100_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("setting", ["direct", "power_cut", "metadata", "xattrs"])
def test_exercise_settings_long(make_mount: Callable[..., TemporaryMount], setting: str) -> None:
    exercise(make_mount("disk", params=BUSY, **{setting: True}), 13, 100_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_exercise_a_lazy_flusher_long(make_mount: Callable[..., TemporaryMount]) -> None:
    exercise(make_mount("disk"), 14, 100_000)
