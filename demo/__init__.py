"""A live database server is protected, lost, and served from its substitute VM. Run by `make demo`."""
