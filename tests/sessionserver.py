"""`wodmail` whose server looks after sessions every WODMAIL_TEST_SESSIONS_EVERY seconds (inf: never)."""

from __future__ import annotations

import os
import sys

from wodmail import server
from wodmail.cli.main import main

if __name__ == "__main__":
    server.SESSIONS_EVERY = float(os.environ["WODMAIL_TEST_SESSIONS_EVERY"])
    sys.exit(main())
