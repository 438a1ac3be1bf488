"""The hardware: RAM, page-table formats, TLBs and the MMU. It knows nothing of files or VMAs."""
