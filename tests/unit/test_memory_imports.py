"""Planning is for people who have not yet installed or downloaded anything heavy: it starts at once."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys, time
from sixgig.cards import find_card
from sixgig.catalogue import get
from sixgig.memory import Wishes, plan
result = plan(get("llama-3-8b"), Wishes(task="generate"), card=find_card("RTX 4050"), ram_bytes=2**35)
heavy = [name for name in ("torch", "transformers", "numpy", "accelerate") if name in sys.modules]
print(json.dumps({"heavy": heavy, "cpu_s": time.process_time(), "settings": result.settings}))
"""


def test_a_plan_is_made_without_torch_and_within_two_seconds_of_cpu_time() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["heavy"] == []
    assert found["settings"].startswith("4 bits")
    # About 0.4 s here. Importing torch alone would take more than 2 s, as would a simulation that grows with
    # the number of tokens; time of the processor, since other programs may share it.
    assert found["cpu_s"] < 2
