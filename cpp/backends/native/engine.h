// The native engine as a backend.
#pragma once

#include <string>

#include "../../backend.h"
#include "plan.h"

namespace edgeface::native {

class Engine : public Backend {
  public:
    // `isa` names the kernels to use; empty for the best this CPU has.
    Engine(const Network& network, int threads, const std::string& isa,
           const CacheSizes& caches = cache_sizes());

    InputView input() override;
    void run() override { plan_.run(); }
    OutputView output(const std::string& name) override;

    std::vector<double> profile(int rounds) { return plan_.profile(rounds); }

    const char* isa() const { return kernels_.isa; }
    const Plan& plan() const { return plan_; }

  private:
    const Kernels& kernels_;
    Plan plan_;
};

}  // namespace edgeface::native
