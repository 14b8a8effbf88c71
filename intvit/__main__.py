"""`python -m intvit` is the command `intvit`."""

from intvit.cli import main

if __name__ == "__main__":
    main()
