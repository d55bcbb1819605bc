"""What pyproject.toml cannot say: cffi's build hook, and that the C sources travel inside the package as `rha.csrc`
(the probe is compiled on the master, by bcc, at each load)."""

from setuptools import find_packages, setup

setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    packages=[*find_packages(include=["rha", "rha.*"]), "rha.csrc"],
    package_dir={"rha.csrc": "csrc"},
    package_data={"rha": ["py.typed", "*.toml", "cli/*.toml"], "rha.csrc": ["*.c", "*.h", "kheaders/include/**/*.h"]},
)
