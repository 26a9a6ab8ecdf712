"""How the compiled libraries are built: setup.py puts this folder's parent on sys.path and runs the commands defined here.

`settings` reads the environment variables, `torch_headers` finds the torch to build with, `compilers` the compilers and the GPUs
to build for, `libraries` says how each library is compiled, `commands` are what setuptools runs, `readme` is for an index.
"""
