"""What the runners that reach another machine share: a folder over there, and an artifact's graphs run in it.

place.py      a folder behind any POSIX shell (this machine's, ssh's, adb's): push, run, start, pull, and nothing left
channel.py    requests and answers over a program's standard streams, each within its time
agent.py      what runs on a device that has Python: numpy, one runtime, the sessions of the target modules
code.py       those modules, to be pushed
sessions.py   a graph over there as a session here: through the agent, or as a static program of our C
measure.py    the harness here with its sessions over there; time and memory as the device says, instructions as counted
reference.py  the same file on this machine, and how far outputs may be from its own
traps.py      set-ups that would be measured wrongly
limits.py     how much of an evaluation fits into the time
roots.py      Python for another instruction set, in the cache
runner.py     the base of ssh, adb and qemu_user
"""
