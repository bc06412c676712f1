// Winograd's transforms of rows on `Vec`, for kernels_body.h: what they are is in winograd.h.

static_assert(Vec::lanes <= winograd::kMostLanes, "a vector's channels must be there");

// B: from six inputs to the factors of six products.
struct WinogradInputs {
    Vec a = Vec::broadcast(static_cast<float>(winograd::kA));
    Vec b = Vec::broadcast(static_cast<float>(winograd::kB));
    Vec minus_a = Vec::broadcast(static_cast<float>(-winograd::kA));
    Vec minus_b = Vec::broadcast(static_cast<float>(-winograd::kB));
    Vec minus_aa = Vec::broadcast(static_cast<float>(-winograd::kA * winograd::kA));
    Vec minus_bb = Vec::broadcast(static_cast<float>(-winograd::kB * winograd::kB));
    Vec product =
        Vec::broadcast(static_cast<float>(winograd::kA * winograd::kA * winograd::kB * winograd::kB));
    Vec minus_sum =
        Vec::broadcast(static_cast<float>(-winograd::kA * winograd::kA - winograd::kB * winograd::kB));

    __attribute__((always_inline)) void operator()(const Vec* in, float* out, std::ptrdiff_t step) const {
        const Vec even_a = Vec::fused(in[2], minus_bb, in[4]);
        const Vec odd_a = Vec::fused(in[1], minus_bb, in[3]);
        const Vec even_b = Vec::fused(in[2], minus_aa, in[4]);
        const Vec odd_b = Vec::fused(in[1], minus_aa, in[3]);
        Vec::fused(in[0], product, Vec::fused(in[2], minus_sum, in[4])).store(out);
        Vec::fused(odd_a, a, even_a).store(out + step);
        Vec::fused(odd_a, minus_a, even_a).store(out + 2 * step);
        Vec::fused(odd_b, b, even_b).store(out + 3 * step);
        Vec::fused(odd_b, minus_b, even_b).store(out + 4 * step);
        Vec::fused(in[1], product, Vec::fused(in[3], minus_sum, in[5])).store(out + 5 * step);
    }
};

// The first `columns` inputs of a patch, all channels; the others are 0.
template <bool kIsWhole>
__attribute__((always_inline)) inline void winograd_patch(const WinogradInputRun& run,
                                                          const WinogradInputs& transform, const float* input,
                                                          int columns, float* output) {
    for (int c = 0; c < run.channels; c += Vec::lanes) {
        // The last vector of channels may repeat some of the one before.
        const int at = c + Vec::lanes <= run.channels ? c : run.channels - Vec::lanes;
        Vec in[winograd::kProducts];
        EDGEFACE_UNROLL
        for (int i = 0; i < winograd::kProducts; ++i) {
            in[i] = kIsWhole || i < columns ? Vec::load(input + i * run.input_step + at) : Vec::broadcast(0);
        }
        transform(in, output + at, run.product_step);
    }
}

void winograd_inputs(const WinogradInputRun& run) {
    const WinogradInputs transform;
    const float* input = run.input;
    float* output = run.output;
    int columns = run.columns;
    for (; columns >= winograd::kProducts; columns -= winograd::kPatch) {
        winograd_patch<true>(run, transform, input, columns, output);
        input += winograd::kPatch * run.input_step;
        output += run.channels;
    }
    if (columns >= winograd::kTaps) winograd_patch<false>(run, transform, input, columns, output);
}

// A, and the bias: from six products to four outputs.
struct WinogradOutputs {
    Vec a = Vec::broadcast(static_cast<float>(winograd::kA));
    Vec b = Vec::broadcast(static_cast<float>(winograd::kB));
    Vec aa = Vec::broadcast(static_cast<float>(winograd::kA * winograd::kA));
    Vec bb = Vec::broadcast(static_cast<float>(winograd::kB * winograd::kB));
    Vec aaa = Vec::broadcast(static_cast<float>(winograd::kA * winograd::kA * winograd::kA));
    Vec bbb = Vec::broadcast(static_cast<float>(winograd::kB * winograd::kB * winograd::kB));

    __attribute__((always_inline)) void operator()(const float* in, std::ptrdiff_t step, Vec bias,
                                                   Vec* out) const {
        const Vec plus_a = Vec::load(in + step);
        const Vec minus_a = Vec::load(in + 2 * step);
        const Vec plus_b = Vec::load(in + 3 * step);
        const Vec minus_b = Vec::load(in + 4 * step);
        const Vec even_a = Vec::add(plus_a, minus_a);
        const Vec odd_a = Vec::subtract(plus_a, minus_a);
        const Vec even_b = Vec::add(plus_b, minus_b);
        const Vec odd_b = Vec::subtract(plus_b, minus_b);
        out[0] = Vec::add(Vec::add(Vec::load(in), bias), Vec::add(even_a, even_b));
        out[1] = Vec::fused(odd_a, a, Vec::fused(odd_b, b, bias));
        out[2] = Vec::fused(even_a, aa, Vec::fused(even_b, bb, bias));
        const Vec last = Vec::add(Vec::load(in + 5 * step), bias);
        out[3] = Vec::fused(odd_a, aaa, Vec::fused(odd_b, bbb, last));
    }
};

void winograd_outputs(const WinogradOutputRun& run) {
    const WinogradOutputs transform;
    const Vec low = Vec::broadcast(run.low);
    const float* products = run.products;
    float* output = run.output;
    for (int pixel = 0; pixel < run.pixels; pixel += winograd::kPatch, products += run.patch_step) {
        const int pixels = run.pixels - pixel;
        for (int c = 0; c < run.channels; c += Vec::lanes) {
            Vec out[winograd::kPatch];
            transform(products + c, run.product_step, Vec::load(run.bias + c), out);
            bend_and_bound<winograd::kPatch>(run, out);
            EDGEFACE_UNROLL
            for (int i = 0; i < winograd::kPatch; ++i) {
                if (i < pixels) {
                    store(Vec::max(out[i], low), output + i * run.output_step + c, run.channels - c);
                }
            }
        }
        output += winograd::kPatch * run.output_step;
    }
}
