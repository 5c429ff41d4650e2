"""Pretrained networks by name, each with its preprocessing, stages, licence and weights hash.

Start with ``registry``. ``family`` and ``backbone`` hold the types, ``stages`` the table of stages,
and each module named in ``registry.FAMILIES`` one family of networks.
"""
