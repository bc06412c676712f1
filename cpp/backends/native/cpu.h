// Which kernels this CPU can run, and which of them to use.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace edgeface::native {

// Best first; `scalar` is always there and last.
std::vector<const Kernels*> available_kernels();

// The kernels of that ISA, or the best ones for an empty name. BackendError when this CPU or this build
// does not have them: a forced ISA never falls back.
const Kernels& select_kernels(const std::string& isa);

}  // namespace edgeface::native
