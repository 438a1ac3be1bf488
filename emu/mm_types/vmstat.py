"""Counters under the kernel's names (include/linux/vmstat.h, mm/vmstat.c), and a few that only an emulator has."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class VmStat:
    """What /proc/vmstat shows, in pages or events, but pgpgin and pgpgout in KiB; the last group is fremap's own.

    Gauges (nr_*) go up and down, the others only up.
    """

    nr_file_pages: int = 0
    nr_anon_pages: int = 0
    nr_mapped: int = 0
    nr_page_table_pages: int = 0
    nr_dirty: int = 0
    nr_writeback: int = 0
    nr_mlock: int = 0
    nr_dirtied: int = 0
    nr_written: int = 0
    nr_vmscan_write: int = 0
    nr_swapcached: int = 0

    pgpgin: int = 0
    pgpgout: int = 0
    pswpin: int = 0
    pswpout: int = 0
    pgfault: int = 0
    pgmajfault: int = 0
    pgactivate: int = 0
    pgdeactivate: int = 0
    pgrefill: int = 0
    pgscan_kswapd: int = 0
    pgscan_direct: int = 0
    pgsteal_kswapd: int = 0
    pgsteal_direct: int = 0
    pglazyfree: int = 0
    pglazyfreed: int = 0
    allocstall: int = 0
    kswapd_wakeups: int = 0
    unevictable_pgs_culled: int = 0
    nr_tlb_local_flush_one: int = 0
    nr_tlb_local_flush_all: int = 0
    nr_tlb_remote_flush: int = 0
    nr_tlb_lazy_flush: int = 0
    thp_fault_alloc: int = 0
    thp_fault_fallback: int = 0

    nr_remap: int = 0
    nr_page_mkwrite: int = 0
    nr_do_wp_page: int = 0
    nr_cow: int = 0
    nr_nonlinear_fault: int = 0
    mkclean_calls: int = 0
    mkclean_cleaned: int = 0
    mkclean_pte_visits: int = 0
    mkclean_node_visits: int = 0
    unmap_calls: int = 0
    unmap_pte_visits: int = 0
    referenced_pte_visits: int = 0
    unaccounted_dirty_max: int = 0
    nr_copyout: int = 0
    nr_throttled: int = 0
    throttle_pause_us: int = 0
    nr_writeback_io: int = 0
    nr_write_errors: int = 0
    nr_fsync: int = 0
    nr_oom: int = 0

    def snapshot(self) -> dict[str, int]:
        """Return the counters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
