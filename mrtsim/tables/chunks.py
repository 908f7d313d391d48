"""How much of a table is in memory at once."""

# Rows, or fewer where they are long.
ROWS = 65536
# Of text, as it is read from the file; of typed tables four times as many.
BYTES = 4 << 20
