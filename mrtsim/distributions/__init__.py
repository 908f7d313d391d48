"""Toy conditional distributions p(y|x), and their exact variance components."""
