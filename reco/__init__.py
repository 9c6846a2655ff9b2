"""ReCo: semantic segmentation from a handful of labelled images, with Regional Contrast."""

__version__ = "0.1.0"
