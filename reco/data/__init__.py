"""Data sets: readers, few-shot splits, partial labels, augmentation and loading.

``open_dataset`` gives a :class:`~reco.data.datasets.reader.Reader`: ids, images, labels. ``splits``
chooses which of its images are labelled, ``partial`` which pixels; ``loading`` makes the batches.
"""

from reco.data.datasets import open_dataset

__all__ = ["open_dataset"]
