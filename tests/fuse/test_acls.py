"""POSIX ACLs, on a mount that was asked for extended attributes: kept, heeded, inherited; the host is the judge."""

import itertools
import os
import shutil
import struct
from collections.abc import Callable

import pytest

from fsbackend.mount import TemporaryMount
from tests.fuse.posix import MEMBER, OWNER, STRANGER, World, differences, run_script

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")]

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF
ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"

Entry = tuple[int, int, int]


def acl(*entries: Entry) -> bytes:
    """Return an ACL as the kernel takes it: version 2, then (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who) for tag, bits, who in entries)


FOR_STRANGER = acl(
    (USER_OBJ, 6, NOBODY), (USER, 6, STRANGER[0]), (GROUP_OBJ, 4, NOBODY), (MASK, 6, NOBODY), (OTHER, 0, NOBODY)
)
MASKED = acl(
    (USER_OBJ, 7, NOBODY), (USER, 7, STRANGER[0]), (GROUP_OBJ, 7, NOBODY), (MASK, 4, NOBODY), (OTHER, 0, NOBODY)
)
MINIMAL = acl((USER_OBJ, 6, NOBODY), (GROUP_OBJ, 0, NOBODY), (OTHER, 0, NOBODY))


def script(world: World) -> None:
    for number, value in enumerate((FOR_STRANGER, MASKED, MINIMAL, b"", b"junk")):
        name = f"file-{number}"
        world.make(name, "file", 0o640, OWNER)
        path = world.path(name)
        world.do("set", lambda path=path, value=value: os.setxattr(path, ACCESS, value))  # type: ignore[misc]
        world.show(name)
        for user in (OWNER, MEMBER, STRANGER):
            with world.user(user):
                world.try_open(name, os.O_RDONLY)
                world.try_open(name, os.O_WRONLY)
                world.do("set by", lambda path=path: os.setxattr(path, ACCESS, MINIMAL, os.XATTR_REPLACE))  # type: ignore[misc]
        world.do("get", lambda path=path: os.getxattr(path, ACCESS))  # type: ignore[misc]
        world.do("list", lambda path=path: os.listxattr(path))  # type: ignore[misc]
        world.do("chmod", lambda path=path: os.chmod(path, 0o604))  # type: ignore[misc]
        world.do("get", lambda path=path: os.getxattr(path, ACCESS))  # type: ignore[misc]
        world.do("remove", lambda path=path: os.removexattr(path, ACCESS))  # type: ignore[misc]
        world.show(name)
    for value, umask in itertools.product((b"", FOR_STRANGER, MASKED), (0, 0o027, 0o077)):
        place = f"dir-{umask:o}-{value[6:7].hex()}"
        world.make(place, "dir", 0o777)
        if value:
            os.setxattr(world.path(place), DEFAULT, value)
        old = os.umask(umask)
        for name, call in {
            "file": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)),
            "strict": lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)),
            "dir": lambda path: os.mkdir(path, 0o777),
            "fifo": lambda path: os.mkfifo(path, 0o666),
            "link": lambda path: os.symlink(b"x", path),
        }.items():
            path = world.path(f"{place}/{name}")
            world.do(f"make {name}", lambda path=path, call=call: call(path))  # type: ignore[misc]
            world.show(f"{place}/{name}")
            for which in (ACCESS, DEFAULT):
                world.do("get", lambda path=path, which=which: os.getxattr(path, which, follow_symlinks=False))  # type: ignore[misc]
        os.umask(old)
        with world.user(STRANGER):
            world.try_open(f"{place}/file", os.O_WRONLY)
    world.make("sym", "link")
    world.do("of a link", lambda: os.setxattr(world.path("sym"), "trusted.x", b"1", follow_symlinks=False))
    world.do("of a link", lambda: os.listxattr(world.path("sym"), follow_symlinks=False))


def test_acls(make_mount: Callable[..., TemporaryMount]) -> None:
    mounted = make_mount("disk", xattrs=True, allow_other=True)
    for folder in (mounted.base, mounted.path):
        folder.chmod(0o755)
    theirs = mounted.base / "host"
    theirs.mkdir(0o755)
    try:
        os.setxattr(theirs, ACCESS, FOR_STRANGER)
        os.removexattr(theirs, ACCESS)
    except OSError as error:
        pytest.skip(f"the host's filesystem keeps no ACLs: {error}")
    theirs.chmod(0o755)
    found = differences(run_script(mounted.path / "script", script), run_script(theirs / "script", script))
    shutil.rmtree(theirs)
    assert not found, "\n".join(found[:40])


def test_control_files_have_no_acls_and_can_be_read(make_mount: Callable[..., TemporaryMount]) -> None:
    mounted = make_mount("disk", xattrs=True, allow_other=True)
    for folder in (mounted.base, mounted.path):
        folder.chmod(0o755)

    def script(world: World) -> None:
        with world.user(STRANGER):
            world.do("read", lambda: (mounted.path / ".bdi" / "caps").read_bytes()[:4])

    found = run_script(mounted.path / "script", script)
    assert found == ["read: b'disk'"]
