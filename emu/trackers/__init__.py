"""Today's dirty trackers of the host's kernel, each proved right and priced on the same stores."""
