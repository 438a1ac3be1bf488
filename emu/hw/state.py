"""Where everything stands in the flat uint64 array that is one CPU.

Registers, counters, the walker's description of the format and the TLBs are one array, because entering
compiled code costs time for every argument. Indexes known at compile time are plain ints here; those that
take part in arithmetic are np.uint64.
"""

import numpy as np

# Registers
R_FAULT = 0         # 0, or the Cause of the fault that stopped the CPU
R_CR2 = 1           # the address that faulted
R_ERROR = 2         # the architecture's own fault code
R_ROOT = 3          # physical address of the root table
R_CONTEXT = 4       # tag bits of the current address space: TAG_VALID | asid << ASID_SHIFT
R_MODE = 5          # 0 user, 3 supervisor: how far the permission bits are shifted
R_RAM_BYTES = 6

# Counters
C_ACCESSES = 16
C_L1_MISSES = 17
C_L2_HITS = 18
C_WALKS = 19
C_PWC_HITS = 20
C_ACCESSED_SET = 21
C_DIRTY_SET = 22
C_FAULTS = 23
C_WALK_READS = 24   # page-table entries read
NR_COUNTERS = 9

# The format, as numbers
F_PTE_SHIFT = 32    # log2 of an entry's bytes
F_NR_LEVELS = 33
F_PAGE_SHIFT = 34
F_PAGE_MASK = 35    # bits of the offset in a page
F_FAST_MASK = 36    # page number bits and the bits that must be 0 in an aligned 8-byte access
F_VA_SHIFT = 37     # address >> this ...
F_VA_TOP = 38       # ... must be 0 or this
F_PFN_MASK = 39
F_PFN_LSHIFT = 40   # from where an entry holds the frame to where a physical address does
F_ACCESSED = 41     # leaf
F_DIRTY_MASK = 42   # a leaf is dirty to the hardware if entry & mask == value; made so by clear and set
F_DIRTY_VALUE = 43
F_DIRTY_CLEAR = 44
F_DIRTY_SET = 45
F_HW_AD = 46        # 1: the hardware sets accessed and dirty; 0: it faults instead
F_GLOBAL_MASK = 47  # a leaf is global if entry & mask == value
F_GLOBAL_VALUE = 48
F_FIRST_LEVEL = 49  # the architecture's number of the root's level, for fault codes
F_NOT_EXECUTED = 50     # kernel fetch, if the kernel may execute nothing that user mode may write
F_VA_WRAP = 51      # addresses go round at the end of this mask
F_LEAF_RIGHTS = 52  # the bits of a leaf, and of a table entry, that permissions depend on
F_TABLE_RIGHTS = 53

# The TLBs' geometry
G_L1_BASE = 56
G_L1_WAYS = 57
G_L1_MASK = 58      # sets - 1
G_L1_FIFO = 59
G_L2_BASE = 60
G_L2_WAYS = 61
G_L2_MASK = 62
G_L2_FIFO = 63
G_PWC_ON = 64
G_PWC_MASK = 65
G_LARGE_SEEN = 66   # fragments of large pages may be cached
G_GLOBAL_SEEN = 67  # global pages may be cached
M_LEAF_RIGHTS = 68  # the last leaf's permission bits, and what they allow; the same of table entries
M_LEAF_ALLOWED = 69
M_TABLE_RIGHTS = 70
M_TABLE_ALLOWED = 71

# Arrays by level (0 = root)
MAX_LEVELS = 8
L_SHIFT = np.uint64(96)
L_INDEX_MASK = np.uint64(104)
L_PRESENT_MASK = np.uint64(112)
L_PRESENT_VALUE = np.uint64(120)
L_LEAF_MASK = np.uint64(128)        # a leaf if (entry & mask != 0) differs from inverted
L_LEAF_INVERTED = np.uint64(136)
L_RESERVED_LEAF = np.uint64(144)
L_RESERVED_TABLE = np.uint64(152)
L_GIVEN = np.uint64(160)            # bits taken as set when permissions are looked up
L_ACCESSED = np.uint64(168)         # of table entries
L_PWC_BASE = np.uint64(176)
L_TABLE_GLOBAL = np.uint64(184)     # of table entries: all below is global

# Permissions: six bits of an entry make an index; the table gives the accesses that are allowed
T_LEAF_ALLOWED = np.uint64(192)
T_TABLE_ALLOWED = np.uint64(256)
T_ERROR = np.uint64(320)            # fault codes by cause * 8 + mode + kind
T_LEAF_BITS = np.uint64(384)
T_TABLE_BITS = np.uint64(390)

# The front: which pages the first-level TLB can serve without a search, by kind; direct-mapped
FRONT_TAGS = np.uint64(512)         # [kind * 256 + page % 256]: the page's address, or EMPTY
FRONT_KIND_SHIFT = np.uint64(8)
FRONT_MASK = np.uint64(255)
FRONT_XOR = np.uint64(512 + 16 * 256)       # physical address = virtual address ^ this
HINTS = np.uint64(512 + 17 * 256)   # where in the second level a page was last seen; checked on use
HINT_MASK = np.uint64(4095)

# Where in RAM the leaf of a page was last found: what a batch that misses reads ahead. Two places for each
# page, the newer first: its physical address and above it the page number's upper bits. Never believed.
LEAF_HINTS = np.uint64(512 + 17 * 256 + 4096)
LEAF_HINT_MASK = np.uint64(32767)
LEAF_HINT_BITS = np.uint64(15)
LEAF_HINT_TAG_SHIFT = np.uint64(48)
LEAF_HINT_WHERE = np.uint64((1 << 48) - 1)
FIXED_WORDS = 512 + 17 * 256 + 4096 + 2 * 32768

EMPTY = np.uint64(2**64 - 1)

# TLB tags: valid, global, ASID, page number
TAG_VALID = np.uint64(1 << 63)
TAG_GLOBAL = np.uint64(1 << 62)
ASID_SHIFT = np.uint64(45)
MAX_ASID = (1 << 16) - 1
TAG_PAGE = np.uint64((1 << 45) - 1)
TAG_ASID = np.uint64(MAX_ASID << 45)

# TLB data: physical address of the page, and below it
DATA_ALLOWED = np.uint64(63)        # user load, store, fetch, supervisor load, store, fetch
DATA_DIRTY = np.uint64(64)
DATA_GLOBAL = np.uint64(128)
DATA_LEVEL_SHIFT = np.uint64(8)
DATA_LARGE = np.uint64(7 << 8)      # levels above the last one that the leaf was found at
DATA_PHYS = np.uint64(2**64 - (1 << 12))

# Causes of a fault (R_FAULT)
NOT_PRESENT, PERMISSION, RESERVED = np.uint64(1), np.uint64(2), np.uint64(3)
NOT_ACCESSED, NOT_CANONICAL = np.uint64(4), np.uint64(5)
NO_MEMORY, NO_TABLE_MEMORY = np.uint64(6), np.uint64(7)
CODE_WITH_LEVEL = np.uint64(1 << 63)
