"""Measurements: `make bench`. Figures are medians of one run, speeds always beside something measured in that run."""
