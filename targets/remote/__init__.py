"""What the runners that reach another machine share: a folder over there, and an artifact's graphs run in it.

place.py      a folder behind any POSIX shell (this machine's, ssh's, adb's): push, run, start, pull, and nothing left
channel.py    requests and answers over a program's standard streams, each within its time
"""
