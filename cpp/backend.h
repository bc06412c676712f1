// What a runtime has to offer to be plugged in.
#pragma once

#include <string>

#include "types.h"

namespace edgeface {

class Backend {
  public:
    virtual ~Backend() = default;

    // The buffer that preprocessing fills before every run(); its address may change between runs.
    virtual InputView input() = 0;
    virtual void run() = 0;
    // Valid until the input is written again. BackendError when there is no output of that name.
    virtual OutputView output(const std::string& name) = 0;

    Backend() = default;
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;
};

}  // namespace edgeface
