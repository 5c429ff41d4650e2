"""The version of regraft: the package, bundles and runs take it from here."""

__version__ = "0.1.0"
