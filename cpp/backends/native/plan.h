// A network made ready to run: every value has its place in memory, every operation is a step.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "network.h"
#include "steps.h"
#include "threads.h"

namespace edgeface::native {

// What one step is, for people.
struct StepInfo {
    std::string name;
    std::string kind;
    Shape output;
};

class Plan {
  public:
    Plan(const Network& network, const Kernels& kernels, int threads);

    DataType type() const { return type_; }
    const Image& input() const { return images_[Network::kInput]; }
    const std::map<std::string, Image>& outputs() const { return outputs_; }
    void run();

    // Bytes that all values need together, sharing memory.
    std::size_t arena_size() const { return arena_size_; }
    const std::vector<StepInfo>& steps() const { return infos_; }

  private:
    void run_steps(int rank);

    DataType type_;
    ThreadPool pool_;
    std::vector<std::byte> arena_;
    std::size_t arena_size_ = 0;
    std::vector<Image> images_;
    std::vector<std::unique_ptr<Step>> steps_;
    std::vector<StepInfo> infos_;
    std::map<std::string, Image> outputs_;
};

}  // namespace edgeface::native
