"""A mail-driven backend for workshops: a mail comes in, a student is provisioned, the result goes back by mail."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wodmail")
except PackageNotFoundError:  # a bare checkout on sys.path, never installed
    __version__ = "0+checkout"
