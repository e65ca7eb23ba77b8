"""The compiled core; everything else about the package is in setup.cfg."""

import os
from glob import glob

from setuptools import Extension, setup

macros = [("Py_LIMITED_API", "0x030A0000")]
if os.name == "nt":
    # Python calls the library by ctypes, which finds exported symbols alone.
    macros.append(("BIFSMN_API", "__declspec(dllexport)"))

native = Extension(
    "speechbrain_bifsmn.kernels._native",
    sources=[*sorted(glob("csrc/python/*.c")), *sorted(glob("csrc/src/*.c"))],
    depends=[*glob("csrc/src/*.h"), *glob("csrc/include/*.h")],
    include_dirs=["csrc/include", "csrc/src"],
    define_macros=macros,
    extra_compile_args=["-O3", "-std=c99", "-ffp-contract=off"],
    py_limited_api=True,
    # Without a C compiler the package still installs and runs on numba.
    optional=True,
)

setup(ext_modules=[native])
