"""sixgig: real language-model experiments on one small GPU. See docs/design.md.

Importing this package imports neither torch nor transformers.
"""

__version__ = "0.1.0"
