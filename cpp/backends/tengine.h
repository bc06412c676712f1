// libtengine-lite, loaded at run time, as a backend.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../backend.h"

namespace edgeface {

// Loads the library on first use and keeps it for the process's life. Tengine's loader trusts every byte of
// a model: only what we wrote ourselves may come here. One network runs in one thread at a time.
class TengineBackend : public Backend {
  public:
    // `library` as dlopen takes it, `model` the content of a tmfile. BackendError with Tengine's own words,
    // as far as it has any: some it prints to stderr.
    TengineBackend(const std::string& library, std::string_view model, int threads);
    ~TengineBackend() override;

    InputView input() override;
    void run() override;
    OutputView output(const std::string& name) override;

    std::string version() const;

  private:
    class Library;
    class Graph;
    struct Output {
        void* tensor;     // Tengine's
        OutputView view;  // all but where the values are
    };

    // Declared in this order so that the graph goes before the memory that it reads.
    std::vector<std::uint8_t> pixels_;
    std::unique_ptr<Graph> graph_;
    InputView input_;
    std::map<std::string, Output> outputs_;
    int threads_;
};

}  // namespace edgeface
