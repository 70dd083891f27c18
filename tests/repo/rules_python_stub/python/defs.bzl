"""The three rules of rules_python that our BUILD files load, as the native ones.

For `bazel query` with a Bazel that has native Python rules and no network.
"""

def py_library(**kwargs):
    native.py_library(**kwargs)

def py_binary(**kwargs):
    native.py_binary(**kwargs)

def py_test(**kwargs):
    native.py_test(**kwargs)
