"""Speed as a ratio against a named peer, in one run on one machine."""
