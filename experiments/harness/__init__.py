"""What runs, stores, judges and reports the experiments."""
