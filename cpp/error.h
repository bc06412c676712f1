// The errors a caller can tell apart; Python sees classes of the same names. A bad argument is a
// std::invalid_argument, which Python sees as ValueError.
#pragma once

#include <stdexcept>

namespace edgeface {

// A model's spec and its network do not fit each other.
class ModelError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A runtime is missing, cannot run this network, or failed while running it.
class BackendError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

}  // namespace edgeface
