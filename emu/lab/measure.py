"""What a mapping costs: page tables, the strategy's own memory at its peak, VMAs."""

from dataclasses import dataclass

from emu.machine import Machine
from emu.mapping import Mapping
from emu.mm.inode import Inode
from emu.process import Process


@dataclass(frozen=True, slots=True)
class MapMeasure:
    """Memory in bytes, by what it is for.

    `rmap_bytes` is what the strategy allocated beyond PTEs, at its peak; `pte_bytes` the leaf tables,
    `pte_upper_bytes` the tables above them; `nr_mapped` counts PTEs that show a page of a file.
    """

    rmap_bytes: int
    pte_bytes: int
    pte_upper_bytes: int
    nr_vmas: int
    nr_mapped: int

    @property
    def rmap_bytes_per_mapped_page(self) -> float:
        """The strategy's bytes for each mapped page."""
        return self.rmap_bytes / self.nr_mapped if self.nr_mapped else 0.0


def is_accounted(mapping: Mapping) -> bool:
    """Tell whether dirty pages of the mapped file are accounted; anonymous memory never is."""
    inode = mapping.file
    return isinstance(inode, Inode) and inode.mapping.account_dirty


def measure_mapping(machine: Machine, process: Process) -> MapMeasure:
    """Measure a process's page table and the machine's reverse map."""
    page_table = process.mm.pt
    page_size = machine.kernel.page_size
    return MapMeasure(
        rmap_bytes=machine.kernel.rmap.cost.nbytes_peak,
        pte_bytes=len(page_table.leaves) * page_size,
        pte_upper_bytes=page_table.nr_upper * page_size,
        nr_vmas=process.mm.map_count,
        nr_mapped=process.mm.file_rss,
    )
