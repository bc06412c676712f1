# ARMv7-A with NEON and hard float, as on a Cortex-A8: VFPv4's fused multiply-add is for kernels alone.
set(CMAKE_SYSTEM_PROCESSOR armv7l)
set(TARGET arm-linux-gnueabihf.2.17)
set(CPU generic+v7a+neon)
set(EDGEFACE_VFPV4 "-mcpu=${CPU}+vfp4")
include("${CMAKE_CURRENT_LIST_DIR}/zig.cmake")
