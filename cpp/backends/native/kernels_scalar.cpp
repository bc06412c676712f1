// For the oldest CPU we ship for.
#include "kernels.h"

namespace edgeface::native {
namespace {

// The compilers' portable vectors: what the baseline of the architecture has (SSE2 on x86-64), or plain
// floats.
typedef float Lanes __attribute__((vector_size(16)));

struct Vec {
    static constexpr int lanes = 4;
    Lanes v;

    static Vec load(const float* from) {
        Vec r;
        __builtin_memcpy(&r.v, from, sizeof(r.v));
        return r;
    }
    static Vec broadcast(float x) { return {Lanes{x, x, x, x}}; }
    void store(float* to) const { __builtin_memcpy(to, &v, sizeof(v)); }
    // Rounds twice, where hardware with a fused multiply-add rounds once.
    static Vec fused(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
    static Vec add(Vec a, Vec b) { return {a.v + b.v}; }
    static Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
    static Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
};

constexpr const char* kIsa = "scalar";
constexpr int kTilePixels = 4;
constexpr int kTileChannels = 8;

#include "kernels_body.h"

}  // namespace

const Kernels& scalar_kernels() { return kKernels; }

}  // namespace edgeface::native
