"""Memory that pictures leave is kept for the next ones: fewer pages are taken anew from the system."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from data_prep.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
    keep_freed_memory()
def pictures(n):
    for _ in range(n):
        planes = [bytearray(b"\\1" * 700_000) for _ in range(6)]
        del planes
pictures(5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
pictures(40)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in ways of their own")
def test_what_a_picture_leaves_is_used_for_the_next():
    kept, plain = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "plain")
    )
    assert kept < plain / 4, (kept, plain)
