"""What stands in for a peer's process: programs that answer at once, fail, hang or die."""

from __future__ import annotations

import os
import time
from typing import Any


def steady(connection: Any, task: Any) -> None:
    """Ten times as slow as the task's number of tokens, in ms; slower in each round."""
    connection.send({"stage": "building"})
    connection.send({"ready": {"versions": {"fake": "1"}, "peak_allocated_gib": 5.75}})
    try:
        for number in range(1, 100):
            connection.recv()
            times = {"ms_per_token": 10.0 * task.num_tokens * number}
            connection.send({"times": times, "peak_allocated_gib": 5.75})
    except EOFError:
        return


def without_memory(connection: Any, task: Any) -> None:
    connection.send({"stage": "building lm_head"})
    connection.send({"failed": "OutOfMemoryError: no room for 1 GiB", "kind": "OutOfMemoryError"})


def dying(connection: Any, task: Any) -> None:
    connection.send({"stage": "decoding"})
    connection.send({"ready": {}})
    connection.recv()
    os._exit(3)


def hanging(connection: Any, task: Any) -> None:
    connection.send({"stage": "compiling"})
    time.sleep(600)
