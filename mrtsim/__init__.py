"""Variance-budget analysis of multi-response training (arXiv:2606.00544).

The public names are those of `__init__.pyi`. They load on first use, so that the calculator (`allocate`,
`estimate_components`) never pays for JAX.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
