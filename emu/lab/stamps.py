"""Stamps: page contents that tell which page, which generation of it, and whether it is whole.

A stamp fills the whole page: word i of page `pgoff` in `generation` is mix(seed, pgoff, generation) plus i
times an odd constant. Distinct (pgoff, generation) give distinct mixes under one seed (mix is a bijection of
64 bits), so a page from the wrong place, of the wrong generation, or torn between two generations matches no
stamp.
"""

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

TORN = 255
"""The generation of a page that holds no stamp of its own: torn, misplaced or foreign."""

MAX_GENERATION = 254
_BITS_FOR_GENERATION = 8
_WORD_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: U64) -> U64:
    """Scramble 64-bit values one to one (the finaliser of splitmix64, Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def first_words(seed: int, pgoffs: npt.ArrayLike, generation: int) -> U64:
    """Return the first word of each page's stamp; the rest of the stamp follows from it."""
    if not 0 <= generation <= MAX_GENERATION:
        raise ValueError(f"generation {generation} is not within 0 to {MAX_GENERATION}")
    places = np.asarray(pgoffs, dtype=np.uint64) << np.uint64(_BITS_FOR_GENERATION)
    salt = _mix(np.array([seed % (1 << 64)], dtype=np.uint64))
    return _mix((places | np.uint64(generation)) ^ salt)


def page_words(seed: int, pgoffs: npt.ArrayLike, generation: int, page_size: int) -> U64:
    """Return whole stamps as words, shape (len(pgoffs), page_size // 8)."""
    steps = np.arange(page_size // 8, dtype=np.uint64) * _WORD_STEP
    return first_words(seed, pgoffs, generation)[:, None] + steps


def generations_of(
    pages: npt.NDArray[np.uint8], seed: int, first_pgoff: int, page_size: int, *, up_to: int = 2
) -> npt.NDArray[np.uint8]:
    """Return for each page of a run of a file which generation of its own stamp it holds whole, or TORN.

    `pages` holds the bytes of pages first_pgoff, first_pgoff + 1 ...; a tail shorter than a page is TORN.
    """
    whole = len(pages) // page_size
    words = pages[: whole * page_size].view(np.uint64).reshape(whole, page_size // 8)
    pgoffs = np.arange(first_pgoff, first_pgoff + whole, dtype=np.uint64)
    result = np.full(-(-len(pages) // page_size), TORN, np.uint8)
    # Whole or not does not depend on the generation: every word must continue its first one.
    steps = np.arange(page_size // 8, dtype=np.uint64) * _WORD_STEP
    intact = ((words - steps) == words[:, :1]).all(axis=1)
    for generation in range(up_to + 1):
        held = intact & (words[:, 0] == first_words(seed, pgoffs, generation))
        result[:whole][held] = generation
    return result


def cyclic_permutation(nr_pages: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return a random permutation of 0 to nr_pages - 1 without fixed points: one cycle through all of them.

    Raises
    ------
    ValueError
        If there are fewer than 2 pages: one page can only stay where it is.

    """
    if nr_pages < 2:
        raise ValueError(f"a permutation without fixed points needs at least 2 pages, not {nr_pages}")
    order = rng.permutation(nr_pages)
    permutation = np.empty(nr_pages, np.int64)
    permutation[order] = np.roll(order, -1)
    return permutation
