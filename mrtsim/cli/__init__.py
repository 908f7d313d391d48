"""The `mrtsim` command."""
