"""The emulated machine: hardware, kernel, processes, and the fremap command."""
