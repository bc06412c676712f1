// A network made ready to run: every value has its place in memory, every operation is a step.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "network.h"
#include "threads.h"

namespace edgeface::native {

// Where a value lies: pixel p, channel c at data[p * stride + c].
struct Image {
    float* data = nullptr;
    Shape shape;
    std::ptrdiff_t stride = 0;
};

// One operation over the whole image, cut into pieces that any threads may do in any order.
class Step {
  public:
    virtual ~Step() = default;
    virtual int pieces() const = 0;
    virtual void run(int begin, int end) const = 0;

    Step() = default;
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
};

// What one step is, for people.
struct StepInfo {
    std::string name;
    std::string kind;
    Shape output;
};

class Plan {
  public:
    Plan(const Network& network, const Kernels& kernels, int threads);

    const Image& input() const { return images_[Network::kInput]; }
    const std::map<std::string, Image>& outputs() const { return outputs_; }
    void run();

    // Floats that all values between input and outputs need together, sharing memory.
    std::size_t arena_size() const { return arena_size_; }
    const std::vector<StepInfo>& steps() const { return infos_; }

  private:
    void run_steps(int rank);

    ThreadPool pool_;
    std::vector<float> arena_;
    std::size_t arena_size_ = 0;
    std::vector<Image> images_;
    std::vector<std::unique_ptr<Step>> steps_;
    std::vector<StepInfo> infos_;
    std::map<std::string, Image> outputs_;
};

}  // namespace edgeface::native
