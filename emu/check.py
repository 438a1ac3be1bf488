"""check(machine): every invariant of a whole machine, asserted; for tests, after every step.

It reads the state that the kernel keeps twice or derives (counts, tags, lists, indexes) and compares it with the
page tables and struct pages themselves. All violations are collected and raised together, as one KernelBug with
the values. Cost: O(RAM + page tables), milliseconds for a small machine.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from emu.check_anon import Violations, check_anon_vmas, check_committed, check_private, check_swap, equal
from emu.check_cpus import check_loaded, check_page_walk_caches, check_tlbs
from emu.check_lists import check_evictable, check_free_frames, check_lru, check_order
from emu.errors import KernelBug
from emu.machine import Machine
from emu.mm.filemap import max_pgoff
from emu.mm.kernel import Kernel
from emu.mm.vma_prot import vma_wants_writenotify
from emu.mm_types.address_space import AddressSpace
from emu.mm_types.mm import Mm
from emu.mm_types.page import (
    PG_ANON,
    PG_DIRTY,
    PG_LOCKED,
    PG_MLOCKED,
    PG_PGTABLE,
    PG_WRITEBACK,
)
from emu.mm_types.page_tree import TAG_DIRTY, TAG_WRITEBACK
from emu.mm_types.vma import VM_EXEC, VM_LOCKED, VM_NONLINEAR, VM_READ, VM_SHARED, VM_WRITE, VmArea


def check(machine: Machine) -> None:
    """Raise KernelBug with a line for each violated invariant."""
    k = machine.kernel
    found = [line for one in _CHECKS for line in one(k)]
    if found:
        raise KernelBug("\n".join(found))


def _present_ptes(k: Kernel, mm: Mm, vma: VmArea) -> Iterator[tuple[int, int]]:
    vaddrs, ptes = mm.pt.entries(vma.start, vma.end)
    for vaddr, pte in zip(vaddrs.tolist(), ptes.tolist(), strict=True):
        if k.fmt.pte_present(pte):
            yield vaddr, pte


def _check_vmas(k: Kernel) -> Violations:
    """VMAs do not overlap, lie on page borders, and are filed under their files as what they are."""
    filed = {id(v) for m in k.mappings.values() for v in m.i_mmap}
    filed_nonlinear = {id(v) for m in k.mappings.values() for v in m.i_mmap_nonlinear}
    known: set[int] = set()
    for mm in k.mms.values():
        end = total = locked = 0
        for vma in mm.vmas:
            known.add(id(vma))
            if vma.start < end or vma.end <= vma.start or (vma.start | vma.end) & (k.page_size - 1):
                yield f"{mm!r}: {vma!r} overlaps or is no range of pages"
            end = vma.end
            total += vma.nr_pages
            locked += vma.nr_pages if vma.flags & VM_LOCKED else 0
            nonlinear = bool(vma.flags & VM_NONLINEAR)
            as_filed = id(vma) in filed, id(vma) in filed_nonlinear
            if vma.mapping is not None and as_filed != (not nonlinear, nonlinear):
                yield f"{mm!r}: {vma!r} is not filed under {vma.mapping!r} as it should be"
            yield from _check_bindings(k, vma)
        yield from equal(f"{mm!r} total_vm", mm.total_vm, total)
        yield from equal(f"{mm!r} locked_vm", mm.locked_vm, locked)
        yield from equal(f"{mm!r} nr_nonlinear", mm.nr_nonlinear, sum(v.nr_pages for v in mm.vmas if v.nonlinear))
    if (filed | filed_nonlinear) - known:
        yield "a file lists a VMA that no mm has"


def _check_bindings(k: Kernel, vma: VmArea) -> Violations:
    """Compare what a VMA was told when its flags changed last with what they say now."""
    if vma.mapping is not None and k.rmap.watches(vma) != (vma.pte_changed is not None):
        yield f"{vma.mm!r}: {vma!r} has the wrong reverse-map hook"
    if vma.wants_writenotify != vma_wants_writenotify(vma):
        yield f"{vma.mm!r}: {vma!r} has wants_writenotify {vma.wants_writenotify}"


def _check_locks(k: Kernel) -> Violations:
    """Nobody holds a lock while nobody runs."""
    for mm in k.mms.values():
        if mm.mmap_sem.readers or mm.mmap_sem.writer:
            yield f"{mm!r}: mmap_sem is held"
    for mapping in k.mappings.values():
        if mapping.i_mmap_lock.readers or mapping.i_mmap_lock.writer:
            yield f"{mapping!r}: i_mmap_lock is held"
    for pfn in np.flatnonzero(k.mem_map.flags_array & PG_LOCKED).tolist():
        yield f"still locked: {k.mem_map.describe(pfn)}"


def _check_page_tables(k: Kernel) -> Violations:
    """Leaf tables are where the hardware finds them; all PTEs lie within VMAs."""
    words = k.ram.u64 if k.fmt.pte_bytes == 8 else k.ram.u32
    per_frame = k.page_size // k.fmt.pte_bytes
    for mm in k.mms.values():
        inside = sum(len(mm.pt.entries(vma.start, vma.end)[0]) for vma in mm.vmas)
        yield from equal(f"{mm!r} PTEs within VMAs", inside, len(mm.pt.entries(0, 1 << k.fmt.va_bits)[0]))
        for key, leaf_pfn in mm.pt.leaf_pfns.items():
            vaddr = key << mm.pt.leaf_shift
            pfn = mm.pt.root_pfn
            for level in range(len(k.fmt.levels) - 1):
                entry = int(words[pfn * per_frame + k.fmt.index(vaddr, level)])
                if not k.fmt.table_present(entry):
                    yield f"{mm!r}: no table at level {level} for {vaddr:#x}"
                    break
                pfn = k.fmt.table_pfn(entry)
            else:
                # A large page stands in the place of the leaf table, which is put aside: both start at one frame.
                real = mm.pt.get(vaddr) and k.fmt.pte_pfn(mm.pt.get(vaddr)) if key in mm.pt.huge else leaf_pfn
                yield from equal(f"{mm!r} leaf table, or large page, for {vaddr:#x}", real, pfn)
        yield from (f"{mm!r}: {line}" for line in mm.pt.miscounted())
        for pfn in mm.pt.table_pfns():
            if not k.mem_map.flags[pfn] & PG_PGTABLE:
                yield f"{mm!r}: table frame is not marked: {k.mem_map.describe(pfn)}"
    tables = sum(len(mm.pt.table_pfns()) for mm in k.mms.values())
    yield from equal("nr_page_table_pages", k.vmstat.nr_page_table_pages, tables)
    marked = int(np.count_nonzero(k.mem_map.flags_array & PG_PGTABLE))
    yield from equal("pages with PG_pgtable", marked, tables)


def _check_rights(k: Kernel, vma: VmArea, vaddr: int, pte: int) -> Violations:
    """Compare a PTE with its VMA: it allows no more; with no right at all it is PROT_NONE, and only then."""
    fmt, where = k.fmt, f"{vma.mm!r} {vaddr:#x} PTE {pte:#x}"
    if fmt.pte_protnone(pte) != (not vma.flags & (VM_READ | VM_WRITE | VM_EXEC)):
        yield f"{where} is or is not PROT_NONE, unlike {vma!r}"
    elif fmt.pte_write(pte) and not vma.flags & VM_WRITE:
        yield f"{where} may be written, {vma!r} may not"
    elif fmt.exec_rule.mask and not fmt.pte_protnone(pte) and fmt.pte_exec(pte) != bool(vma.flags & VM_EXEC):
        yield f"{where} may or may not be executed, unlike {vma!r}"


def _check_clean(k: Kernel, vma: VmArea, pte: int, where: str) -> Violations:
    """Compare the PTE of a file page with PG_dirty: no store must pass unseen, nor any private one reach the file."""
    fmt, pfn = k.fmt, k.fmt.pte_pfn(pte)
    if fmt.pte_write(pte) and not vma.flags & VM_SHARED:
        yield f"{where} of a private mapping may write to a page of its file: {k.mem_map.describe(pfn)}"
    lost = k.rmap.name == "none" and vma.flags & VM_NONLINEAR
    tracked = vma.mapping is not None and vma.mapping.account_dirty and vma.flags & VM_SHARED and not lost
    if tracked and not k.mem_map.flags[pfn] & PG_DIRTY and (fmt.pte_write(pte) or fmt.pte_dirty(pte)):
        yield f"{where} is writable or dirty, its page is clean: {k.mem_map.describe(pfn)}"


def _check_ptes(k: Kernel) -> Violations:
    """PTEs map what belongs there; a clean accounted page has no writable or dirty PTE (but under `none`)."""
    fmt = k.fmt
    for mm in k.mms.values():
        rss = Counter[bool]()
        for vma in mm.vmas:
            for vaddr, pte in _present_ptes(k, mm, vma):
                pfn = fmt.pte_pfn(pte)
                flags = k.mem_map.flags[pfn]
                yield from _check_rights(k, vma, vaddr, pte)
                rss[bool(flags & PG_ANON)] += 1
                where = f"{mm!r} {vaddr:#x} PTE {pte:#x}"
                if flags & PG_ANON or pfn == k.zero_pfn:
                    yield from check_private(k, vma, vaddr, pte, where)
                    continue
                if vma.mapping is None or k.mem_map.mapping[pfn] != vma.mapping.ident:
                    yield f"{where} maps a page of another file: {k.mem_map.describe(pfn)}"
                    continue
                if not vma.flags & VM_NONLINEAR and k.mem_map.index[pfn] != vma.linear_pgoff(vaddr):
                    yield f"{where} of a linear VMA maps {k.mem_map.describe(pfn)}"
                yield from _check_clean(k, vma, pte, where)
            if not vma.flags & VM_NONLINEAR:
                vaddrs, ptes = mm.pt.entries(vma.start, vma.end)
                strays = sum(not fmt.pte_present(pte) and fmt.pte_file(pte) for pte in ptes.tolist())
                if strays:
                    yield f"{mm!r}: {strays} file PTEs in linear {vma!r} among {len(vaddrs)}"
        yield from equal(f"{mm!r} file_rss, anon_rss", (mm.file_rss, mm.anon_rss), (rss[False], rss[True]))


def _known_references(k: Kernel) -> tuple[Counter[int], Counter[int]]:
    """Return, by pfn, how many PTEs map it, and how many references to it are known in all."""
    mapped = Counter[int]()
    for mm in k.mms.values():
        for vma in mm.vmas:
            mapped.update(k.fmt.pte_pfn(pte) for _, pte in _present_ptes(k, mm, vma))
    known = Counter(mapped)
    for mapping in k.mappings.values():
        for _, pfn in mapping.pages:
            known[pfn] += 1 + bool(k.mem_map.flags[pfn] & PG_WRITEBACK)
    for pfn in k.swap.cache.values():
        known[pfn] += 1 + bool(k.mem_map.flags[pfn] & PG_WRITEBACK)
    known[k.zero_pfn] += 1
    for mm in k.mms.values():
        known.update(mm.pt.table_pfns())
    return mapped, known


def _check_counts(k: Kernel) -> Violations:
    """Mapcounts count PTEs, references are all accounted for, and no frame leaks."""
    mapped, known = _known_references(k)
    for pfn in np.flatnonzero(k.mem_map.mapcount_array).tolist():
        if not mapped[pfn]:
            yield f"nobody maps {k.mem_map.describe(pfn)}"
    for pfn, count in mapped.items():
        if k.mem_map.mapcount[pfn] != count:
            yield f"{count} PTEs map {k.mem_map.describe(pfn)}"
    for pfn, count in known.items():
        if k.mem_map.refcount[pfn] != count:
            yield f"{count} references are known to {k.mem_map.describe(pfn)}"
        if not k.ram.is_allocated(pfn):
            yield f"in use but free: {k.mem_map.describe(pfn)}"
    yield from equal("allocated frames", k.ram.nr_frames - 1 - k.ram.nr_free, len(known))


def _check_slot(k: Kernel, mapping: AddressSpace, pgoff: int, pfn: int) -> Violations:
    """Compare a slot of a file's tree with its struct page."""
    flags, tag, page = k.mem_map.flags[pfn], mapping.pages.tags(pgoff), k.mem_map.describe(pfn)
    if pgoff >= max_pgoff(k, mapping):
        yield f"{mapping!r} slot {pgoff} lies beyond its {mapping.i_size} bytes: {page}"
    if (k.mem_map.mapping[pfn], k.mem_map.index[pfn]) != (mapping.ident, pgoff) or flags & PG_ANON:
        yield f"{mapping!r} slot {pgoff} holds {page}"
    wrong = mapping.writeback and bool(flags & PG_DIRTY) != bool(tag & TAG_DIRTY)
    if wrong or bool(flags & PG_WRITEBACK) != bool(tag & TAG_WRITEBACK):
        yield f"{mapping!r} slot {pgoff} tag {tag}: {page}"


def _check_page_cache(k: Kernel) -> Violations:
    """Struct page and the file's tree agree on place, tags and counts; the counters are what they count."""
    dirty = writeback = cached = 0
    bdi_dirty, bdi_writeback = Counter[int](), Counter[int]()
    for mapping in k.mappings.values():
        tags = Counter[int]()
        for pgoff, pfn in mapping.pages:
            yield from _check_slot(k, mapping, pgoff, pfn)
            flags, tag = k.mem_map.flags[pfn], mapping.pages.tags(pgoff)
            cached += 1
            writeback += bool(flags & PG_WRITEBACK)
            if mapping.account_dirty:
                dirty += bool(flags & PG_DIRTY)
                bdi_dirty[id(mapping.bdi)] += bool(flags & PG_DIRTY)
                bdi_writeback[id(mapping.bdi)] += bool(flags & PG_WRITEBACK)
            tags.update(one for one in (TAG_DIRTY, TAG_WRITEBACK) if tag & one)
        yield from equal(f"{mapping!r} tagged", mapping.pages.nr_tagged, {t: tags[t] for t in mapping.pages.nr_tagged})
        listed = mapping in k.dirty_mappings
        if listed != (mapping.dirtied_when_s is not None) or (tags[TAG_DIRTY] and not listed):
            yield f"{mapping!r}: {tags[TAG_DIRTY]} dirty pages, listed {listed}, since {mapping.dirtied_when_s}"
    writeback += sum(bool(k.mem_map.flags[pfn] & PG_WRITEBACK) for pfn in k.swap.cache.values())
    yield from equal("nr_dirty", k.vmstat.nr_dirty, dirty)
    yield from equal("nr_writeback", k.vmstat.nr_writeback, writeback)
    if writeback and not k.io.in_flight:
        yield f"{writeback} pages are under writeback, and nothing is in flight"
    yield from equal("nr_file_pages", k.vmstat.nr_file_pages, cached)
    for bdi in k.bdis.values():
        yield from equal(f"bdi {bdi.name} nr_dirty", bdi.nr_dirty, bdi_dirty[id(bdi)])
        yield from equal(f"bdi {bdi.name} nr_writeback", bdi.nr_writeback, bdi_writeback[id(bdi)])


def _check_mapped(k: Kernel) -> Violations:
    """Count again the pages that are mapped or mlocked."""
    flags_array = k.mem_map.flags_array
    mapped = k.mem_map.mapcount_array > 0
    anon = (flags_array & PG_ANON) != 0
    yield from equal("nr_mapped", k.vmstat.nr_mapped, int(np.count_nonzero(mapped & ~anon)))
    yield from equal("nr_anon_pages", k.vmstat.nr_anon_pages, int(np.count_nonzero(mapped & anon)))
    yield from equal("nr_mlock", k.vmstat.nr_mlock, int(np.count_nonzero(flags_array & PG_MLOCKED)))


def _check_rmap(k: Kernel) -> Violations:
    """Strategies hold what the page tables say."""
    yield from k.rmap.check(k)


_CHECKS: tuple[Callable[[Kernel], Violations], ...] = (
    _check_vmas,
    _check_locks,
    _check_page_tables,
    _check_ptes,
    _check_counts,
    _check_page_cache,
    _check_mapped,
    check_anon_vmas,
    check_swap,
    check_committed,
    check_order,
    check_lru,
    check_evictable,
    check_free_frames,
    check_loaded,
    check_tlbs,
    check_page_walk_caches,
    _check_rmap,
)
