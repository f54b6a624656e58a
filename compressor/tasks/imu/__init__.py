"""Activity recognition from a body-worn sensor, taught by video (COMODO).

data (compressor/data/mocap.py, hapt.py, basicmotions.py) -> teacher on video -> queue loss -> student on the signal
-> linear class head -> a bundle whose glue (glue.py, stream.py) and firmware (firmware/) decide once per second.
"""
