"""Builds the two native parts: the core (cffi, one module for every Python 3) and the library QEMU is started with."""

from setuptools import Extension, setup

setup(
    cffi_modules=["native/build_native.py:ffibuilder"],
    ext_modules=[
        # Not a Python module: LD_PRELOAD loads it. An extension, so that it is built and installed like one.
        Extension("replicator._preload", ["native/preload.c"], extra_compile_args=["-std=gnu11", "-O2"]),
    ],
)
