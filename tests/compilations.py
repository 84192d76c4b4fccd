"""Counts what XLA compiles."""

import contextlib
from collections.abc import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that grows by one for each program that is compiled inside."""
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if event == _EVENT:
            compiled.append(str(details.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
