"""Tests on whole machines: a fresh Debian that booted its own systemd (`make install-test`)."""
