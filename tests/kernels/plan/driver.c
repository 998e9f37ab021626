// The symbols of libcuda.so.1 that cuDNN's libraries need to be loaded. 100 is CUDA_ERROR_NO_DEVICE.
#define NONE(name) int name(void) { return 100; }
NONE(cuInit)
NONE(cuGetErrorString)
NONE(cuModuleGetFunction)
NONE(cuModuleLoadData)
NONE(cuModuleUnload)
NONE(cuTensorMapEncodeIm2col)
NONE(cuTensorMapEncodeTiled)
