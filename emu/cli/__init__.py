"""The fremap command."""
