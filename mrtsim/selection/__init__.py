"""Which K of N candidates are kept."""
