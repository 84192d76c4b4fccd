"""Content hashes: the same name for the same numbers."""

import hashlib
import json
from typing import Any

# Bump when the same config gives other numbers than before; every baseline and trial is then computed anew.
RESULTS_VERSION = 4


def content_hash(what: str, **parts: Any) -> str:
    """16 hex digits of SHA-256 over plain JSON data; `what` keeps hashes of different things apart."""
    text = json.dumps([what, RESULTS_VERSION, parts], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
