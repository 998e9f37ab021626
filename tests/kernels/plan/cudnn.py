"""The part of cuDNN's backend API that plans a graph, by ctypes. Names and numbers are those of the header in the wheel."""

import ctypes

from header import HOME, NAMES, element

LIBRARY = ctypes.CDLL(str(HOME / "lib/libcudnn.so.9"), mode=ctypes.RTLD_GLOBAL)
LIBRARY.cudnnGetErrorString.restype = ctypes.c_char_p


class Refused(Exception):
    """An error status of cuDNN."""


def check(status):
    if status:
        message = ctypes.create_string_buffer(4096)
        LIBRARY.cudnnGetLastErrorString(message, ctypes.c_size_t(len(message)))
        text = LIBRARY.cudnnGetErrorString(status).decode()
        raise Refused(f"{text.removeprefix('CUDNN_STATUS_')} {message.value.decode(errors='replace')}".strip())


def version():
    number = LIBRARY.cudnnGetVersion()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def names(prefix, number):
    """The name of an enumerator without its prefix."""
    return next((name[len(prefix):] for name, value in NAMES.items() if name.startswith(prefix) and value == number),
                str(number))


class Descriptor:
    """A backend descriptor. Names of attributes are without the descriptor's own name."""

    def __init__(self, kind, prefix, **attributes):
        self.prefix, self.kept = f"ATTR_{prefix}_", []
        self.handle = ctypes.c_void_p()
        check(LIBRARY.cudnnBackendCreateDescriptor(NAMES[f"BACKEND_{kind}_DESCRIPTOR"], ctypes.byref(self.handle)))
        for name, (type_, values) in attributes.items():
            self.set(name, type_, values)

    def set(self, name, type_, values):
        values = values if isinstance(values, (list, tuple, bytes)) else [values]
        self.kept.append(values)
        raw = [value.handle if isinstance(value, Descriptor) else value for value in values]
        array = (element(type_) * len(raw))(*raw)
        check(LIBRARY.cudnnBackendSetAttribute(self.handle, NAMES[self.prefix + name], NAMES[f"TYPE_{type_}"],
                                               ctypes.c_int64(len(raw)), array))

    def get(self, name, type_, limit=1):
        """Returns the values of an attribute."""
        array, count = (element(type_) * limit)(), ctypes.c_int64()
        check(LIBRARY.cudnnBackendGetAttribute(self.handle, NAMES[self.prefix + name], NAMES[f"TYPE_{type_}"],
                                               ctypes.c_int64(limit), ctypes.byref(count), array))
        return list(array[:count.value])

    def fill(self, name, kind, prefix, limit=1):
        """Returns descriptors that the library fills."""
        found = [Descriptor(kind, prefix) for _ in range(limit)]
        array, count = (ctypes.c_void_p * limit)(*[one.handle for one in found]), ctypes.c_int64()
        check(LIBRARY.cudnnBackendGetAttribute(self.handle, NAMES[self.prefix + name],
                                               NAMES["TYPE_BACKEND_DESCRIPTOR"], ctypes.c_int64(limit),
                                               ctypes.byref(count), array))
        return found[:count.value]

    def finalize(self):
        check(LIBRARY.cudnnBackendFinalize(self.handle))
        return self

    def __del__(self):
        LIBRARY.cudnnBackendDestroyDescriptor(self.handle)
