"""`wodmail` whose server looks after sessions (or overdue seats) every WODMAIL_TEST_SESSIONS_EVERY seconds."""

from __future__ import annotations

import os
import sys

from wodmail import server
from wodmail.cli.main import main

if __name__ == "__main__":
    server.SESSIONS_EVERY = server.OVERDUE_EVERY = float(os.environ["WODMAIL_TEST_SESSIONS_EVERY"])
    sys.exit(main())
