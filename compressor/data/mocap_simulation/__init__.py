"""The simulation behind compressor/data/mocap.py: bodies that move (clips.py), a sensor on them, a camera (video.py).

A package of its own, so that listing data sources does not import numba.
"""
