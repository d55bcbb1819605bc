"""What is claimed about losses and order, held against independent oracles. `make proof`."""
