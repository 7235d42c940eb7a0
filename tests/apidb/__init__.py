"""A stand-in of the API-DB: a program (`python -m tests.apidb --help`), a handle for tests, and its frontend.

`site.ApiDbSite` starts it for a test; `frontend.Frontend` mails as the real one does. Standard library alone.
"""
