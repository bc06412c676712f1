// Winograd's transforms of rows on `Vec`, for kernels_body.h: what they are is in winograd.h.

static_assert(Vec::lanes <= winograd::kMostLanes, "a vector's channels must be there");

// B: from six inputs to six factors, `step` apart.
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

// What is between the two ways: six rows or columns of six vectors.
struct WinogradBuffer {
    alignas(64) float values[winograd::kProducts * Vec::lanes];

    float* at(int row, int column) { return values + (row * winograd::kFactors + column) * Vec::lanes; }
};

// The first `columns` columns of a patch's inputs from `at` on, a vector of channels; the others are 0.
template <bool kIsWhole>
__attribute__((always_inline)) inline void winograd_patch(const WinogradInputRun& run,
                                                          const WinogradInputs& transform, std::ptrdiff_t at,
                                                          int columns, float* output) {
    WinogradBuffer down;
    Vec in[winograd::kFactors];
    for (int column = 0; column < winograd::kFactors; ++column) {
        const bool is_there = kIsWhole || column < columns;
        EDGEFACE_UNROLL
        for (int i = 0; i < winograd::kFactors; ++i) {
            in[i] = is_there ? Vec::load(run.inputs[i] + at + column * run.input_step) : Vec::broadcast(0);
        }
        transform(in, down.at(0, column), winograd::kFactors * Vec::lanes);
    }
    for (int row = 0; row < winograd::kFactors; ++row) {
        EDGEFACE_UNROLL
        for (int i = 0; i < winograd::kFactors; ++i) in[i] = Vec::load(down.at(row, i));
        transform(in, output + row * winograd::kFactors * run.product_step, run.product_step);
    }
}

template <bool kIsWhole>
__attribute__((always_inline)) inline void winograd_channels(const WinogradInputRun& run,
                                                             const WinogradInputs& transform,
                                                             std::ptrdiff_t at, int columns, float* output) {
    for (int c = 0; c < run.channels; c += Vec::lanes) {
        // The last vector of channels may repeat some of the one before.
        const int channel = c + Vec::lanes <= run.channels ? c : run.channels - Vec::lanes;
        winograd_patch<kIsWhole>(run, transform, at + channel, columns, output + channel);
    }
}

void winograd_inputs(const WinogradInputRun& run) {
    const WinogradInputs transform;
    std::ptrdiff_t at = 0;
    float* output = run.output;
    int columns = run.columns;
    for (; columns >= winograd::kFactors; columns -= winograd::kOutputs) {
        winograd_channels<true>(run, transform, at, columns, output);
        at += winograd::kOutputs * run.input_step;
        output += run.channels;
    }
    if (columns >= winograd::kTaps) winograd_channels<false>(run, transform, at, columns, output);
}

// A: from six products to four outputs, and something added to each.
struct WinogradOutputs {
    Vec a = Vec::broadcast(static_cast<float>(winograd::kA));
    Vec b = Vec::broadcast(static_cast<float>(winograd::kB));
    Vec aa = Vec::broadcast(static_cast<float>(winograd::kA * winograd::kA));
    Vec bb = Vec::broadcast(static_cast<float>(winograd::kB * winograd::kB));
    Vec aaa = Vec::broadcast(static_cast<float>(winograd::kA * winograd::kA * winograd::kA));
    Vec bbb = Vec::broadcast(static_cast<float>(winograd::kB * winograd::kB * winograd::kB));

    __attribute__((always_inline)) void operator()(const Vec* in, Vec bias, Vec* out) const {
        const Vec even_a = Vec::add(in[1], in[2]);
        const Vec odd_a = Vec::subtract(in[1], in[2]);
        const Vec even_b = Vec::add(in[3], in[4]);
        const Vec odd_b = Vec::subtract(in[3], in[4]);
        out[0] = Vec::add(Vec::add(in[0], bias), Vec::add(even_a, even_b));
        out[1] = Vec::fused(odd_a, a, Vec::fused(odd_b, b, bias));
        out[2] = Vec::fused(even_a, aa, Vec::fused(even_b, bb, bias));
        out[3] = Vec::fused(odd_a, aaa, Vec::fused(odd_b, bbb, Vec::add(in[5], bias)));
    }
};

// Products of a patch -> four rows of six, a vector of channels.
__attribute__((always_inline)) inline void winograd_down(const WinogradOutputRun& run,
                                                         const WinogradOutputs& transform,
                                                         const float* products, WinogradBuffer* down) {
    for (int column = 0; column < winograd::kFactors; ++column) {
        Vec in[winograd::kFactors];
        Vec out[winograd::kOutputs];
        EDGEFACE_UNROLL
        for (int i = 0; i < winograd::kFactors; ++i)
            in[i] = Vec::load(products + (i * winograd::kFactors + column) * run.product_step);
        transform(in, Vec::broadcast(0), out);
        EDGEFACE_UNROLL
        for (int row = 0; row < winograd::kOutputs; ++row) out[row].store(down->at(row, column));
    }
}

// A row of a patch.
__attribute__((always_inline)) inline void winograd_across(const WinogradOutputRun& run,
                                                           const WinogradOutputs& transform,
                                                           WinogradBuffer* down, int row, int pixel, int c) {
    Vec in[winograd::kFactors];
    Vec out[winograd::kOutputs];
    EDGEFACE_UNROLL
    for (int i = 0; i < winograd::kFactors; ++i) in[i] = Vec::load(down->at(row, i));
    transform(in, Vec::load(run.bias + c), out);
    bend_and_bound<winograd::kOutputs>(run, out);
    const Vec low = Vec::broadcast(run.low);
    float* output = run.outputs[row] + pixel * run.output_step + c;
    EDGEFACE_UNROLL
    for (int i = 0; i < winograd::kOutputs; ++i) {
        if (i < run.pixels - pixel) {
            store(Vec::max(out[i], low), output + i * run.output_step, run.channels - c);
        }
    }
}

void winograd_outputs(const WinogradOutputRun& run) {
    const WinogradOutputs transform;
    const float* products = run.products;
    for (int pixel = 0; pixel < run.pixels; pixel += winograd::kOutputs, products += run.patch_step) {
        for (int c = 0; c < run.channels; c += Vec::lanes) {
            WinogradBuffer down;
            winograd_down(run, transform, products + c, &down);
            for (int row = 0; row < winograd::kOutputs; ++row) {
                if (run.outputs[row] != nullptr) winograd_across(run, transform, &down, row, pixel, c);
            }
        }
    }
}
