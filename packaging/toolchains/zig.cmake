# zig from PyPI (ziglang) as a cross compiler: it brings glibc's headers and stubs, of any version, and a libc++ that
# it links statically. Whoever includes this sets CMAKE_SYSTEM_PROCESSOR and zig's TARGET and CPU.
set(CMAKE_SYSTEM_NAME Linux)

if(NOT DEFINED ENV{EDGEFACE_ZIG})
  execute_process(
    COMMAND python3 -c "import pathlib, ziglang; print(pathlib.Path(ziglang.__file__).with_name('zig'))"
    OUTPUT_VARIABLE zig OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  set(ENV{EDGEFACE_ZIG} "${zig}")
endif()

set(CMAKE_CXX_COMPILER "$ENV{EDGEFACE_ZIG}" c++ -target ${TARGET} -mcpu=${CPU})
# One command each, which CMAKE_AR cannot hold.
set(CMAKE_CXX_ARCHIVE_CREATE "\"$ENV{EDGEFACE_ZIG}\" ar qcs <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_APPEND "\"$ENV{EDGEFACE_ZIG}\" ar qs <TARGET> <OBJECTS>")
set(CMAKE_CXX_ARCHIVE_FINISH "")
set(CMAKE_STRIP "${CMAKE_CURRENT_LIST_DIR}/../strip.py")

# zig compiles libc++ once for each level of optimisation, a minute's work: let CMake's own first link use ours.
set(CMAKE_CXX_FLAGS_INIT "-O3 -fno-sanitize=all")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

# Nothing of this machine is asked for: FindPython would take the host's python3.X-config, of whatever version, for
# the target's.
set(Python_FIND_VIRTUALENV STANDARD) # nor beside the Python that an active environment was made from
set(CMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH OFF)
set(CMAKE_FIND_USE_CMAKE_SYSTEM_PATH OFF)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
