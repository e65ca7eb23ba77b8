/* module.c: an empty Python module that carries the C runtime.
 *
 * Python calls bifsmn.h by ctypes on this very file (kernels/native.py), so
 * one build for the stable ABI serves every Python and nothing is wrapped
 * twice. */

#include <Python.h>

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The C runtime of csrc/, for ctypes; see kernels/native.py.",
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&definition);
}
