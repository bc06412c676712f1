# The first x86-64: SSE2.
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(TARGET x86_64-linux-gnu.2.17)
set(CPU x86_64)
include("${CMAKE_CURRENT_LIST_DIR}/zig.cmake")
