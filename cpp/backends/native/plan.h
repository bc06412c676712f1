// A network made ready to run: every value has its place in memory, every operation is a step, and steps that
// hand on large values run together, band by band.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "chains.h"
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
    int chain = 0;          // steps of one chain run together
    int rows = 0;           // of its output that are in memory at a time, on every thread
    std::size_t bytes = 0;  // of a row
};

class Plan {
  public:
    Plan(const Network& network, const Kernels& kernels, int threads, const CacheSizes& caches);

    DataType type() const { return type_; }
    const Image& input() const { return workers_.front().images[Network::kInput]; }
    const std::map<std::string, Image>& outputs() const { return outputs_; }
    void run();
    // Seconds that each chain takes, alone on the caller's thread: the best of `rounds` runs.
    std::vector<double> profile(int rounds);

    // Bytes that all values need together, sharing memory; what stays inside a chain is apart.
    std::size_t arena_size() const { return arena_size_; }
    const std::vector<StepInfo>& steps() const { return infos_; }

  private:
    friend class PlanBuilder;

    struct Stage {
        std::unique_ptr<Step> step;
        std::vector<int> inputs;  // images
        int output = 0;
        int piece = 0;  // rows that it makes at a time
    };

    struct StageChain {
        int first = 0;  // stages
        int last = 0;
    };

    // What every thread has for itself: rings for values inside chains, and how far each stage has come.
    struct Worker {
        std::vector<Image> images;
        std::vector<std::vector<std::byte>> rings;
        std::vector<std::byte> scratch;
        std::byte* scratch_start = nullptr;
        std::vector<int> made;  // rows, by stage
    };

    void prepare(const Network& network, const Kernels& kernels, const CacheSizes& caches);
    void hire(std::vector<Image> images);
    void add_ring(int image, int rows);
    void run_part(int chain, int part, int rank);
    void run_chain(const StageChain& chain, Rows rows, Worker& worker) const;
    void make(const StageChain& chain, int stage, int end, Worker& worker) const;
    int height(const StageChain& chain) const;

    DataType type_;
    ThreadPool pool_;
    std::vector<std::byte> arena_;
    std::size_t arena_size_ = 0;
    std::vector<Stage> stages_;
    std::vector<StageChain> chains_;
    std::vector<Worker> workers_;  // by rank
    std::vector<StepInfo> infos_;
    std::map<std::string, Image> outputs_;
};

}  // namespace edgeface::native
