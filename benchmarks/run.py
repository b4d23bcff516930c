"""What `make bench` runs: this machine's limits, then treadle beside its peers. `benchmarks/README.md` says how to read
the table; `python benchmarks/run.py --help` lists the options."""

import sys

from harness.command import main

if __name__ == "__main__":
    sys.exit(main())
