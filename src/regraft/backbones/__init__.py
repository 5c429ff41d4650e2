"""Pretrained networks: by name, with their own preprocessing, stages, licence and weights hash.

``registry`` is the way in; ``backbone`` holds the types. Three families are known: ``embedded``
(weights that every installation has), ``torchvision_models`` and ``timm_models``.
"""
