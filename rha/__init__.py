"""rha: real-time replication and high availability for Linux servers."""

__version__ = "0.1.0"
