# ARMv8.0-A, as on a Cortex-A53: no fp16 arithmetic, no dot product, no LSE atomics.
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(TARGET aarch64-linux-gnu.2.17)
set(CPU generic)
set(EDGEFACE_DOTPROD "-mcpu=generic+v8_2a+dotprod")
set(EDGEFACE_DOTPROD "-mcpu=${CPU}+dotprod")
include("${CMAKE_CURRENT_LIST_DIR}/zig.cmake")
