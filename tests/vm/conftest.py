"""Fixtures of this folder."""

from tests.vm.real import libvirt_host, store  # noqa: F401
