"""Images of device classes (docker/), the engines that build and run them, and what runs inside.

images.py      which image a device has, its tag, and whether it was made from these sources
engine.py      what an engine does; find_engine
docker.py      a Docker daemon      buildah.py   no daemon: buildah in chroot isolation
base.py        a base image made by mmdebstrap, where none can be pulled
conditions.py  what limits were asked for, and what a process in the container sees of them
job.py         the entry point of every image: the smoke test, and the harness for the runner `docker`
"""
