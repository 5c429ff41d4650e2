"""regraft: labelled images in, an honest and deployable image classifier out."""

__version__ = "0.1.0"
