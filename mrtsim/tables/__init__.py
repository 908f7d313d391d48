"""What people's files hold: one class per format, one reader for every command."""
