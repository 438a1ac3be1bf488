"""What check() asserts of what CPUs cache: translations, where tables lie, and that whoever holds any is flushed."""

from collections.abc import Iterator

from emu.check_anon import Violations
from emu.hw.mmu import Mmu
from emu.hw.state import ASID_SHIFT, R_CONTEXT, R_ROOT, TAG_ASID
from emu.hw.tlb_dump import TlbEntry, front_entries, pwc_entries, tlb_entries
from emu.mm.kernel import Kernel
from emu.mm_types.mm import Mm


def _loaded(k: Kernel, cpu: int) -> dict[int, Mm]:
    """Return by ASID the mms of which a CPU may use what it caches; of the others all goes before they are loaded."""
    return {mm.asid: mm for mm in k.mms.values() if mm.asid not in k.stale_asids[cpu]}


def _entries(mmu: Mmu) -> Iterator[TlbEntry]:
    yield from tlb_entries(mmu)
    yield from front_entries(mmu)


def check_tlbs(k: Kernel) -> Violations:
    """No TLB holds what its page table no longer says, a forgotten flush; and none that a flush would pass over."""
    for cpu, mmu in enumerate(k.cpus):
        loaded = _loaded(k, cpu)
        first_level = {(entry.asid, entry.vaddr, entry.pfn) for entry in tlb_entries(mmu) if entry.level == 1}
        for entry in _entries(mmu):
            mm = loaded.get(entry.asid)
            if mm is None:
                continue
            pte = mm.pt.get(entry.vaddr)
            if not k.fmt.pte_hw_present(pte) or k.fmt.pte_pfn(pte) != entry.pfn:
                yield f"CPU {cpu}: stale {entry} of {mm!r}, PTE {pte:#x}"
            elif entry.writable and not k.fmt.pte_write(pte):
                yield f"CPU {cpu}: {entry} of {mm!r} is writable, PTE {pte:#x} is not"
            elif entry.dirty and not k.fmt.pte_dirty(pte):
                yield f"CPU {cpu}: {entry} of {mm!r} is dirty, PTE {pte:#x} is not"
            if not mm.cpu_mask >> cpu & 1:
                yield f"CPU {cpu}: {entry} of {mm!r}, whose flushes go to {mm.cpu_mask:#b}"
            if not entry.level and (entry.asid, entry.vaddr, entry.pfn) not in first_level:
                yield f"CPU {cpu}: {entry} of {mm!r} is in the front alone"


def check_loaded(k: Kernel) -> Violations:
    """Each address space has a number of its own, and each CPU translates through the table of the one it runs."""
    if {asid: mm.ident for asid, mm in k.asids.items()} != {mm.asid: mm.ident for mm in k.mms.values()}:
        yield f"asids {k.asids}, address spaces {k.mms}"
    for cpu, (mmu, mm) in enumerate(zip(k.cpus, k.current, strict=True)):
        if mm is None:
            continue
        root, asid = mmu.regs[R_ROOT] >> k.page_shift, (mmu.regs[R_CONTEXT] & int(TAG_ASID)) >> int(ASID_SHIFT)
        if mm.dead or not mm.cpu_mask >> cpu & 1:
            yield f"CPU {cpu} runs {mm!r}, dead or not in its mask {mm.cpu_mask:#b}"
        elif mm.asid in k.stale_asids[cpu]:
            yield f"CPU {cpu} runs {mm!r}, and owes it a flush"
        elif (root, asid) != (mm.pt.root_pfn, mm.asid):
            yield f"CPU {cpu} runs {mm!r} with the table in frame {root}, ASID {asid}"


def check_page_walk_caches(k: Kernel) -> Violations:
    """No page-walk cache leads to a table that is gone."""
    for cpu, mmu in enumerate(k.cpus):
        loaded = _loaded(k, cpu)
        for entry in pwc_entries(mmu):
            mm = loaded.get(entry.asid)
            if mm is not None and mm.pt.table_pfn(entry.level, entry.region) != entry.table_pfn:
                real = mm.pt.table_pfn(entry.level, entry.region)
                yield f"CPU {cpu}: stale {entry} of {mm!r}, its table lies in frame {real}"
