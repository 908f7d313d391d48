"""How wrong a strategy's estimate is: errors, gradients, mode coverage."""
