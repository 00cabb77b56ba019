"""From a name to weights on this machine: fetch and verify, convert, open."""
