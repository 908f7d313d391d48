"""One file a figure: draw(result) -> matplotlib Figure."""
