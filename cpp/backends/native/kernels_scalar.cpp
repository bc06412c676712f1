// Plain C++ for the oldest CPU we ship for; compilers turn four lanes into SSE2 where that is the baseline.
#include "kernels.h"

namespace edgeface::native {
namespace {

struct Vec {
    static constexpr int lanes = 4;
    float lane[lanes];

    static Vec load(const float* from) { return {{from[0], from[1], from[2], from[3]}}; }
    static Vec broadcast(float x) { return {{x, x, x, x}}; }
    void store(float* to) const {
        for (int i = 0; i < lanes; ++i) to[i] = lane[i];
    }
    // Rounds twice, where hardware with a fused multiply-add rounds once.
    static Vec fused(Vec a, Vec b, Vec c) {
        Vec r;
        for (int i = 0; i < lanes; ++i) r.lane[i] = a.lane[i] * b.lane[i] + c.lane[i];
        return r;
    }
    static Vec add(Vec a, Vec b) {
        Vec r;
        for (int i = 0; i < lanes; ++i) r.lane[i] = a.lane[i] + b.lane[i];
        return r;
    }
    static Vec min(Vec a, Vec b) {
        Vec r;
        for (int i = 0; i < lanes; ++i) r.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
        return r;
    }
    static Vec max(Vec a, Vec b) {
        Vec r;
        for (int i = 0; i < lanes; ++i) r.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
        return r;
    }
};

constexpr const char* kIsa = "scalar";
constexpr int kTilePixels = 4;
constexpr int kTileChannels = 8;

#include "kernels_body.h"

}  // namespace

const Kernels& scalar_kernels() { return kKernels; }

}  // namespace edgeface::native
