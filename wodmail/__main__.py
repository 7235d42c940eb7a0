"""`python -m wodmail` is the command `wodmail`."""

from wodmail.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
