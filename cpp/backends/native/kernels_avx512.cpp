#if !defined(__AVX512F__) || !defined(__AVX512BW__)
#error "compile this file with -mavx512f -mavx512bw"
#endif

#include <immintrin.h>

#include "kernels.h"

namespace edgeface::native {
namespace {

#include "vectors_avx512.h"

#include "kernels_body.h"

constexpr QuantizedConvKernels<std::int8_t> kInt8 = conv_kernels<Pairs, std::int8_t>(widen);
constexpr QuantizedConvKernels<std::uint8_t> kUint8 = conv_kernels<Pairs, std::uint8_t>(widen);

constexpr Kernels kKernels = {"avx512",
                              kTileChannels,
                              conv,
                              winograd_inputs,
                              winograd_outputs,
                              depthwise,
                              add,
                              clamp,
                              max_pool,
                              sigmoid,
                              softmax_pairs,
                              {kInt8, kInt8, quantized_depthwise, quantized_add, max_pool},
                              {kUint8, kUint8, quantized_depthwise, quantized_add, max_pool}};

}  // namespace

const Kernels& avx512_kernels() { return kKernels; }

}  // namespace edgeface::native
