"""wod-kill-processes: watches the students' processes, and the server's load (docs/guard.md)."""
