// What cuDNN's libraries want from libcuda.so.1 to be loaded. There is no device: 100 is CUDA_ERROR_NO_DEVICE.
#define NONE(name) int name(void) { return 100; }
NONE(cuInit)
NONE(cuGetErrorString)
NONE(cuModuleGetFunction)
NONE(cuModuleLoadData)
NONE(cuModuleUnload)
NONE(cuTensorMapEncodeIm2col)
NONE(cuTensorMapEncodeTiled)
