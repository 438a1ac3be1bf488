"""PageTree against a dictionary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import KernelBug
from emu.mm_types.page_tree import CHUNK, TAG_DIRTY, TAG_WRITEBACK, PageTree

# Around the borders of chunks, near and far.
pgoffs = st.one_of(st.integers(0, 6), st.integers(CHUNK - 3, CHUNK + 3), st.just(5 * CHUNK), st.just(1 << 40))
actions = st.sampled_from(("insert", "delete", "dirty", "writeback", "clean", "end"))


@given(st.lists(st.tuples(actions, pgoffs)), pgoffs, pgoffs, st.integers(1, 5))
def test_against_a_dictionary(todo: list[tuple[str, int]], one: int, other: int, limit: int) -> None:
    tree = PageTree()
    pages: dict[int, int] = {}
    tags: dict[int, int] = {}
    for pfn, (action, pgoff) in enumerate(todo, start=1):
        present = pgoff in pages
        tag = TAG_DIRTY if action in {"dirty", "clean"} else TAG_WRITEBACK
        if (action == "insert") == present and action not in {"clean", "end"}:
            with pytest.raises(KernelBug, match=str(pgoff)):
                _act(tree, action, pgoff, pfn, tag)
            continue
        _act(tree, action, pgoff, pfn, tag)
        if action == "insert":
            pages[pgoff], tags[pgoff] = pfn, 0
        elif action == "delete":
            del pages[pgoff], tags[pgoff]
        elif present:
            tags[pgoff] = tags[pgoff] & ~tag | (tag if action in {"dirty", "writeback"} else 0)
    start, stop = sorted((one, other))
    stop += 1
    assert list(tree) == sorted(pages.items())
    assert tree.nr_pages == len(pages)
    assert tree.find_pages(start, stop, limit) == sorted((p, f) for p, f in pages.items() if start <= p < stop)[:limit]
    for tag in (TAG_DIRTY, TAG_WRITEBACK):
        tagged = sorted(page for page, held in tags.items() if held & tag)
        assert tree.nr_tagged[tag] == len(tagged)
        assert tree.find_tagged(tag, start, stop, limit) == [page for page in tagged if start <= page < stop][:limit]
    asked = sorted({*pages, one, other, 3})
    assert [tree.lookup(page) for page in asked] == [pages.get(page, 0) for page in asked]
    assert tree.lookup_many(np.array(asked, np.int64)).tolist() == [pages.get(page, 0) for page in asked]
    assert [tree.tags(page) for page in asked] == [tags.get(page, 0) for page in asked]


def _act(tree: PageTree, action: str, pgoff: int, pfn: int, tag: int) -> None:
    if action == "insert":
        tree.insert(pgoff, pfn)
    elif action == "delete":
        tree.delete(pgoff)
    elif action in {"dirty", "writeback"}:
        tree.set_tag(pgoff, tag)
    else:
        tree.clear_tag(pgoff, tag)
