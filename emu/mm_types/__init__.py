"""The emulated kernel's state: pages, address spaces, VMAs, page tables. No I/O, no policy."""
