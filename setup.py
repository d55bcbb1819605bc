"""setuptools learns of the C extension here: cffi's build hook has no pyproject.toml form yet."""

from setuptools import setup

setup(cffi_modules=["csrc/build_ffi.py:ffi"])
