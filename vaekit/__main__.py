"""`python -m vaekit` is the `vaekit` command."""

from vaekit.cli import main

if __name__ == "__main__":
    main()
