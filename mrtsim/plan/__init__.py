"""How a budget should be spent: plans over prompts and responses."""
