"""One of several processes of a sweep: `python several.py FILE.nc PORT COUNT INDEX`; each has one device."""

import sys

import jax
from killed import swept

from research import layout, processes
from research.block import Block

if __name__ == "__main__":
    path, port, count, index = sys.argv[1], *map(int, sys.argv[2:])
    jax.config.update("jax_num_cpu_devices", 1)
    layout.prepare()
    processes.initialize(f"localhost:{port}", count, index, heartbeat=5)
    Block._steps = lambda block: 3
    swept(path)
    print("finished", flush=True)
