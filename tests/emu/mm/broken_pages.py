"""Ways to break page cache, LRU lists, TLBs and the index by hand, each with what check says of it."""

from emu.hw import state as s
from emu.mm.mlock import mlock_vma_page
from emu.mm.rmap.page_hash import VPN_BITS
from emu.mm_types.page import (
    ACTIVE,
    PG_ACTIVE,
    PG_ANON,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_MLOCKED,
    PG_UNEVICTABLE,
    PG_WRITEBACK,
    UNEVICTABLE,
)
from emu.mm_types.page_tree import TAG_DIRTY, TAG_WRITEBACK
from tests.emu.mm.helpers import PAGE
from tests.emu.mm.whole import Whole, breaks

# Page cache


@breaks("slot 1 holds")
def page_in_the_wrong_slot(lab: Whole) -> None:
    lab.k.mem_map.index[lab.pfn(1)] = 3


@breaks("slot 0 tag 0: page")
def dirty_flag_without_tag(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.pfn(0)] |= PG_DIRTY


@breaks("slot 0 tag 1: page")
def tag_without_dirty_flag(lab: Whole) -> None:
    lab.k.mappings[lab.k.mem_map.mapping[lab.pfn(0)]].pages.set_tag(0, TAG_DIRTY)


@breaks("slot 0 tag 2: page")
def tag_without_writeback_flag(lab: Whole) -> None:
    lab.k.mappings[lab.k.mem_map.mapping[lab.pfn(0)]].pages.set_tag(0, TAG_WRITEBACK)


@breaks("tagged: kept")
def tag_count(lab: Whole) -> None:
    lab.k.mappings[lab.k.mem_map.mapping[lab.pfn(0)]].pages.nr_tagged[TAG_DIRTY] += 1


@breaks("dirty pages, listed False")
def dirty_file_not_listed(lab: Whole) -> None:
    lab.k.dirty_mappings.clear()


@breaks("nr_dirty: kept")
def nr_dirty(lab: Whole) -> None:
    lab.k.vmstat.nr_dirty += 1


@breaks("nr_writeback: kept")
def nr_writeback(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.pfn(0)] |= PG_WRITEBACK


@breaks("nr_file_pages: kept")
def nr_file_pages(lab: Whole) -> None:
    lab.k.vmstat.nr_file_pages -= 1


@breaks("bdi .* nr_dirty: kept")
def bdi_dirty(lab: Whole) -> None:
    next(iter(lab.k.bdis.values())).nr_dirty -= 1


@breaks("nr_mapped: kept")
def nr_mapped(lab: Whole) -> None:
    lab.k.vmstat.nr_mapped += 1


@breaks("nr_anon_pages: kept")
def nr_anon_pages(lab: Whole) -> None:
    lab.k.vmstat.nr_anon_pages += 1


@breaks("nr_mlock: kept")
def nr_mlock(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.pfn(0)] |= PG_MLOCKED


@breaks("under writeback, and nothing is in flight")
def write_that_never_ends(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.pfn(0)] |= PG_WRITEBACK
    lab.k.vmstat.nr_writeback += 1


@breaks("slot 0 holds")
def page_of_a_file_marked_anonymous(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.pfn(0)] |= PG_ANON


@breaks("bdi .* nr_writeback: kept")
def bdi_writeback(lab: Whole) -> None:
    next(iter(lab.k.bdis.values())).nr_writeback += 1


@breaks("lies beyond its")
def page_beyond_the_end(lab: Whole) -> None:
    lab.k.mappings[lab.k.mem_map.mapping[lab.pfn(0)]].i_size = PAGE


# LRU


@breaks("length of LRU list")
def lru_length(lab: Whole) -> None:
    lab.k.lru.nr[ACTIVE] += 1


@breaks("on LRU list")
def flags_name_another_list(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.pfn(0)] ^= PG_ACTIVE | PG_UNEVICTABLE


@breaks("pages with PG_lru: kept")
def lru_flag_of_an_unlisted_page(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.mm.pt.root_pfn] |= PG_LRU


@breaks("still locked")
def page_left_locked(lab: Whole) -> None:
    lab.k.mem_map.flags[lab.pfn(0)] |= PG_LOCKED


@breaks("on no list")
def page_on_no_list(lab: Whole) -> None:
    lab.k.lru.remove(lab.pfn(0))


@breaks("unevictable for no reason")
def page_out_of_sight(lab: Whole) -> None:
    lab.k.lru.move(lab.pfn(0), UNEVICTABLE)


@breaks("evictable, with nowhere to go")
def page_of_no_disk_in_sight(lab: Whole) -> None:
    lab.k.mappings[lab.k.mem_map.mapping[lab.pfn(0)]].writeback = False


@breaks("mlocked, but no locked mapping has it")
def page_mlocked_by_nobody(lab: Whole) -> None:
    mlock_vma_page(lab.k, lab.pfn(0))


# TLBs


@breaks("CPU 0: stale")
def stale_translation(lab: Whole) -> None:
    lab.process.load(lab.at(0), 1)
    lab.poke(0, lambda _pte: lab.pte(1), flush=False)


@breaks("is writable, PTE .* is not")
def writable_translation(lab: Whole) -> None:
    lab.process.store(lab.at(1), b"x")
    lab.poke(1, lab.k.fmt.pte_wrprotect, flush=False)


@breaks("is dirty, PTE .* is not")
def dirty_translation(lab: Whole) -> None:
    lab.process.store(lab.at(1), b"x")
    lab.poke(1, lab.k.fmt.pte_mkclean, flush=False)


@breaks("CPU 1: stale")
def stale_translation_elsewhere(lab: Whole) -> None:
    lab.k.cpu = 1
    lab.process.load(lab.at(0), 1)
    lab.k.cpu = 0
    lab.poke(0, lambda _pte: 0, flush=False)
    lab.k.cpus[0].invalidate_asid(lab.mm.asid)


@breaks("whose flushes go to 0b0")
def cpu_out_of_the_mask(lab: Whole) -> None:
    lab.process.load(lab.at(0), 1)
    lab.mm.cpu_mask = 0


@breaks("dead or not in its mask")
def cpu_that_runs_a_dead_process(lab: Whole) -> None:
    lab.child.mm.dead = True


@breaks("owes it a flush")
def cpu_that_forgets_to_flush(lab: Whole) -> None:
    lab.process.load(lab.at(0), 1)
    lab.k.stale_asids[0].add(lab.mm.asid)


@breaks("with the table in frame")
def cpu_with_another_table(lab: Whole) -> None:
    lab.k.current[0] = lab.mm
    lab.mm.cpu_mask |= 1


@breaks("^asids ")
def number_of_nobody(lab: Whole) -> None:
    lab.k.asids[77] = lab.mm


@breaks("is in the front alone")
def front_alone(lab: Whole) -> None:
    lab.process.load(lab.at(0), 1)
    mmu = lab.k.cpus[0]
    ways, first = int(mmu.state[s.G_L1_WAYS]), int(mmu.state[s.G_L1_BASE])
    mmu.state[first : first + (int(mmu.state[s.G_L1_MASK]) + 1) * ways * 2] = 0


@breaks("stale PwcEntry")
def table_moved_under_the_page_walk_cache(lab: Whole) -> None:
    # A page that no TLB holds yet, so that there is a walk.
    lab.process.load(lab.at(9), 1)
    pt = lab.mm.pt
    last = len(lab.k.fmt.levels) - 1
    if last > 1:
        next(table for (level, _), table in pt._tables.items() if level == 1)[0] += 1
    pt.leaf_pfns[lab.at(0) >> pt.leaf_shift] += 1


# The index


def _entry(lab: Whole) -> tuple[int, int]:
    vaddr = lab.nonlinear.vaddr + PAGE
    pte = lab.mm.pt.get(vaddr)
    return lab.k.fmt.pte_pfn(pte), lab.mm.ident << VPN_BITS | vaddr // PAGE


@breaks("dirty_index lacks")
def index_lacks_an_entry(lab: Whole) -> None:
    assert lab.index._hash.remove(*_entry(lab))


@breaks("dirty_index has .* too many")
def index_has_too_many(lab: Whole) -> None:
    pfn, key = _entry(lab)
    lab.index._hash.add(pfn, key + 1)


@breaks("dirty_index: .* entries")
def index_counts_wrong(lab: Whole) -> None:
    lab.index._hash.nr_entries += 1


@breaks("dirty_index lacks")
def pte_changed_past_the_seam(lab: Whole) -> None:
    vaddr = lab.nonlinear.vaddr
    leaf = lab.mm.pt.leaf(vaddr)
    leaf[vaddr // PAGE & lab.mm.pt.leaf_mask] = lab.k.fmt.pte_mkdirty(lab.mm.pt.get(vaddr))
