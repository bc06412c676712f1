// The five steps of one detect, in one direction.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend.h"
#include "decode.h"
#include "nms.h"
#include "preprocess.h"
#include "priors.h"
#include "spec.h"

namespace edgeface {

struct Options {
    float score_threshold = 0;
    float min_face = 0;  // frame pixels, the longer side
    NmsOptions nms;
    std::string isa;  // whose kernels preprocessing uses; empty for the best
};

// Milliseconds of one detect.
struct Timings {
    double preprocess = 0;
    double run = 0;
    double decode = 0;
};

struct Result {
    std::vector<Detection> faces;  // in frame pixels, clipped to the region that was looked at
    Timings timings;
};

class Detector {
  public:
    // Builds the priors, checks every head against them and runs the network once: what can fail, fails
    // here. ModelError when spec and network do not fit each other, BackendError when this CPU lacks the ISA.
    Detector(std::shared_ptr<Backend> backend, ModelSpec spec, Options options);

    // Safe to call from several threads, which then take turns. `region` lies inside the frame.
    Result detect(const Frame& frame, Rect region);

    bool has_landmarks() const { return !spec_.heads.landmarks.empty(); }
    std::size_t prior_count() const { return priors_.size(); }

  private:
    InputView input();
    Heads heads();
    Head head(const std::string& name, int min_columns, int max_columns, std::vector<float>& reals);

    std::shared_ptr<Backend> backend_;
    ModelSpec spec_;
    Options options_;
    std::vector<Prior> priors_;
    const PreprocessKernels& kernels_;
    ResizePlan resize_;
    std::array<std::vector<float>, 4> reals_;  // quantised heads as real numbers
    std::mutex mutex_;                         // one set of buffers, one frame at a time
};

}  // namespace edgeface
