#!/usr/bin/env bash
# Make .venv with fremap in it, and install libfuse2, fuse3 and valgrind where they are missing.
#
#   scripts/setup.sh            as often as you like: a second run only looks
#   PYTHON=python3.12 scripts/setup.sh
#
# Asks nothing. What it may not install it names, and goes on: the tests that need it skip.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3.14 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "needs Python 3.11 or newer; install it (Debian: apt-get install python3 python3-venv) or set PYTHON=/path/to/python"
}

# -- system packages: the FUSE library that fusepy loads, and fusermount -------------------------------------

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_be_root() { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }

has_libfuse2() {
    # As the dynamic linker finds it, which is how fusepy does.
    /sbin/ldconfig -p 2>/dev/null | grep -q 'libfuse\.so\.2' || ldconfig -p 2>/dev/null | grep -q 'libfuse\.so\.2' ||
        compgen -G '/usr/lib*/libfuse.so.2' >/dev/null || compgen -G '/lib*/libfuse.so.2' >/dev/null
}

has_fusermount() { command -v fusermount >/dev/null || command -v fusermount3 >/dev/null; }

install_with_apt() {
    local packages=()
    if ! has_libfuse2; then
        # Debian 13 and Ubuntu 24.04 renamed it for 64-bit time.
        if apt-cache show libfuse2t64 >/dev/null 2>&1; then packages+=(libfuse2t64); else packages+=(libfuse2); fi
    fi
    has_fusermount || packages+=(fuse3)
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
}

install_fuse() {
    if command -v apt-get >/dev/null; then
        install_with_apt || { as_root apt-get update -q && install_with_apt; }
    elif command -v dnf >/dev/null; then as_root dnf install -y -q fuse-libs fuse3
    elif command -v pacman >/dev/null; then as_root pacman -S --noconfirm --needed fuse2 fuse3
    elif command -v zypper >/dev/null; then as_root zypper -n install libfuse2 fuse3
    elif command -v apk >/dev/null; then as_root apk add fuse fuse3
    else return 1
    fi
}

ensure_fuse() {
    if ! has_libfuse2 || ! has_fusermount; then
        if ! may_be_root; then
            say "libfuse2 or fusermount is missing and installing needs root; as root run: apt-get install libfuse2 fuse3"
            say "going on without: nothing can be mounted, compare runs on plain files"
        elif ! install_fuse >&2; then
            say "could not install libfuse2 and fuse3; install them with this system's package manager"
            say "going on without: nothing can be mounted, compare runs on plain files"
        fi
    fi
    [ -e /dev/fuse ] || say "no /dev/fuse here (modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN): nothing can be mounted"
}

install_valgrind() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends valgrind
}

# valgrind records the memory of programs; everything else does without.
ensure_valgrind() {
    command -v valgrind >/dev/null && return
    if ! command -v apt-get >/dev/null || ! may_be_root; then
        say "no valgrind here: fremap record -- COMMAND needs it (Debian and Ubuntu: apt-get install valgrind)"
    elif ! { install_valgrind || { as_root apt-get update -q && install_valgrind; }; } >&2; then
        say "could not install valgrind; fremap record -- COMMAND does not work without it"
    fi
}

# -- the Python environment ----------------------------------------------------------------------------------

ensure_venv() {
    local python
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(find_python)
        "$python" -c 'import venv, ensurepip' 2>/dev/null ||
            die "$python has no venv module; install it (Debian and Ubuntu: apt-get install python3-venv)"
        say "making .venv with $("$python" --version)"
        # What may be there is half made or of a Python that is gone.
        "$python" -m venv --clear .venv
    fi
}

ensure_package() {
    local stamp=.venv/.fremap-installed wanted
    wanted="$(pwd) $(.venv/bin/python --version) $(cksum <pyproject.toml)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        say "installing fremap and what it needs into .venv"
        .venv/bin/python -m pip install -qq --disable-pip-version-check --no-input -e '.[dev]' ||
            die "pip could not install fremap's requirements (its own words are above); is there a network?"
        echo "$wanted" >"$stamp"
    fi
}

ensure_fuse
ensure_valgrind
ensure_venv
ensure_package
say "ready: .venv/bin/fremap --help"
