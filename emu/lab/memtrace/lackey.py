"""The text of valgrind's lackey (--trace-mem=yes), parsed a block of lines at a time.

    I  04016b80,3         an instruction of 3 bytes
     L 1ffefffe7e8,8      a load of 8 bytes
     S 1ffefffe7e0,4      a store
     M 0421c7cc,4         a modify: load and store

Well-formed lines never enter Python: eight digits at a time are read as one 64-bit word. All others are handed to
whoever reads the trace: valgrind's own words (==1234==), system calls (SYSCALL[...]), and what is no line of a trace.

Source of the format: valgrind 3.19 lackey/lk_main.c: trace_instr(), trace_load(), trace_store(), trace_modify().
"""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from emu.lab.memtrace.words import (
    LETTERS,
    MAX_NBYTES,
    U64Array,
    is_canonical,
    kinds_of,
    nbytes_of,
    pack,
    vaddrs_of,
)

_PAD = 16
_LINE = re.compile(rb"(I | [LSM]) +([0-9a-fA-F]{1,16}),([0-9]{1,5})\s*")
_HEADS = {b"I  ": 0, b" L ": 1, b" S ": 2, b" M ": 3}
_HEAD_MASK = np.uint64(0xFFFFFF)
_NEWLINE, _COMMA, _ZERO = 10, 44, 48

BoolArray = npt.NDArray[np.bool_]


def _repeat(byte: int) -> np.uint64:
    return np.uint64(byte * 0x0101010101010101)


_ASCII_ZERO, _ONES, _LOW_NIBBLES, _SIX = (_repeat(byte) for byte in (0x30, 0x01, 0x0F, 0x06))
_TO_LETTER = np.uint64(ord("a") - ord("0") - 10)
_HALVES = (
    (np.uint64(4), np.uint64(0x00FF00FF00FF00FF)),
    (np.uint64(8), np.uint64(0x0000FFFF0000FFFF)),
    (np.uint64(16), np.uint64(0x00000000FFFFFFFF)),
)


def _hex8(digits: U64Array) -> tuple[U64Array, BoolArray]:
    """Read eight lower-case hex digits in each word (first digit in the lowest byte); tell which words hold such."""
    nibbles = (digits & _LOW_NIBBLES) + (digits >> np.uint64(6) & _ONES) * np.uint64(9) & _LOW_NIBBLES
    is_letter = (nibbles + _SIX) >> np.uint64(4) & _ONES
    valid: BoolArray = nibbles + _ASCII_ZERO + is_letter * _TO_LETTER == digits
    value = nibbles.byteswap()
    for shift, mask in _HALVES:
        value = (value | value >> shift) & mask
    return value, valid


def _sizes(raw: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], U64Array]:
    """Return where each line's comma is (0: nowhere near) and the number of 1 to 3 digits behind it."""
    last, second, third, fourth = (raw[ends - back].astype(np.int64) for back in (1, 2, 3, 4))
    commas = np.select([second == _COMMA, third == _COMMA, fourth == _COMMA], [ends - 2, ends - 3, ends - 4], 0)
    ones, tens, hundreds = last - _ZERO, second - _ZERO, third - _ZERO
    tens[commas == ends - 2] = 0
    hundreds[commas != ends - 4] = 0
    good = (ones >= 0) & (ones < 10) & (tens >= 0) & (tens < 10) & (hundreds >= 0) & (hundreds < 10)
    commas[~good] = 0
    return commas, (ones + 10 * tens + 100 * hundreds).astype(np.uint64)


def parse_lines(text: bytes) -> tuple[U64Array, BoolArray, npt.NDArray[np.int64]]:
    """Parse whole lines; return a word a line, which lines are accesses, and where each line ends (shapes (n,))."""
    raw = np.frombuffer(b"\n" * _PAD + text + b"\n" * _PAD, np.uint8)
    eights: U64Array = np.ndarray((len(raw) - 7,), "<u8", raw, strides=(1,))
    ends = np.flatnonzero(raw[: _PAD + len(text)] == _NEWLINE)[_PAD:]
    starts = np.concatenate([[_PAD], ends[:-1] + 1])
    heads = eights[starts] & _HEAD_MASK
    kinds = np.zeros(len(starts), np.uint64)
    good = np.zeros(len(starts), np.bool_)
    for head, kind in _HEADS.items():
        found = heads == np.uint64(int.from_bytes(head, "little"))
        kinds[found] = kind
        good |= found
    commas, sizes = _sizes(raw, ends)
    digits = commas - starts - 3
    good &= (digits >= 8) & (digits <= 16)
    at = np.where(good, commas, _PAD)
    vaddrs, valid = _hex8(eights[at - 8])
    good &= valid
    longer = np.flatnonzero(good & (digits > 8))
    if len(longer):
        missing = (16 - digits[longer]).astype(np.uint64) << np.uint64(3)
        there = ~np.uint64(0) << missing
        upper, valid = _hex8(eights[at[longer] - 16] & there | _ASCII_ZERO & ~there)
        vaddrs[longer] |= upper << np.uint64(32)
        good[longer] &= valid & is_canonical(vaddrs[longer])
    return pack(vaddrs, sizes, kinds), good, ends - _PAD


def parse_odd_line(line: bytes) -> int | None:
    """Return the word of an access whose line is spelled unusually (capitals, few digits); None if it is none."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    vaddr, nbytes = int(match[2], 16), int(match[3])
    if nbytes > MAX_NBYTES or not bool(is_canonical(np.array([vaddr], np.uint64))[0]):
        return None
    kind = LETTERS.index(match[1].decode().strip())
    return int(pack(np.array([vaddr], np.uint64), nbytes, kind)[0])


def iterate_text(text: bytes, first_line: int) -> Iterator[U64Array | tuple[int, bytes]]:
    """Yield runs of accesses as words, and between them (line number, line) of each line that is none."""
    words, good, ends = parse_lines(text)
    begin = 0
    for index in np.flatnonzero(~good).tolist():
        if index > begin:
            yield words[begin:index]
        line = text[int(ends[index - 1]) + 1 if index else 0 : int(ends[index])]
        odd = parse_odd_line(line)
        yield (first_line + index, line) if odd is None else np.array([odd], np.uint64)
        begin = index + 1
    if begin < len(words):
        yield words[begin:]


def format_words(words: U64Array) -> str:
    """Return accesses as lackey's text."""
    lines = [
        f"I  {vaddr:08x},{nbytes}\n" if kind == 0 else f" {LETTERS[kind]} {vaddr:08x},{nbytes}\n"
        for vaddr, nbytes, kind in zip(
            vaddrs_of(words).tolist(), nbytes_of(words).tolist(), kinds_of(words).tolist(), strict=True
        )
    ]
    return "".join(lines)
