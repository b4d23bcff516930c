"""`python -m treadle` is the `treadle` command."""

from .frontend.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
