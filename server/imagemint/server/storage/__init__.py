"""Model repositories in object storage, copied to a cache on the local disk.

objects.py  the objects of a repository, through fsspec
listing.py  what the last listing found; the processes of a server share it
cache.py    the bundles on the local disk
mirror.py   the repository as `ModelRepository` sees it
"""
