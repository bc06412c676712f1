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

// B of columns: what a product takes of two of four rows.
struct WinogradRows {
    const float* first;
    const float* second;
    bool adds;
};

__attribute__((always_inline)) inline WinogradRows winograd_rows(const float* const* inputs, int product) {
    switch (product) {
        case 0:
            return {inputs[2], inputs[0], false};
        case 1:
            return {inputs[2], inputs[1], true};
        case 2:
            return {inputs[2], inputs[1], false};
        default:
            return {inputs[3], inputs[1], false};
    }
}

// The first `columns` inputs of a patch from `at` on, all channels; the others are 0.
template <bool kIsWhole>
__attribute__((always_inline)) inline void winograd_patch(const WinogradInputRun& run,
                                                          const WinogradInputs& transform, std::ptrdiff_t at,
                                                          int columns, float* output) {
    for (int c = 0; c < run.channels; c += Vec::lanes) {
        // The last vector of channels may repeat some of the one before.
        const int channel = c + Vec::lanes <= run.channels ? c : run.channels - Vec::lanes;
        EDGEFACE_UNROLL
        for (int product = 0; product < winograd::kRowProducts; ++product) {
            const WinogradRows rows = winograd_rows(run.inputs, product);
            Vec in[winograd::kColumnProducts];
            EDGEFACE_UNROLL
            for (int i = 0; i < winograd::kColumnProducts; ++i) {
                const std::ptrdiff_t from = at + i * run.input_step + channel;
                in[i] = Vec::broadcast(0);
                if (!kIsWhole && i >= columns) continue;
                const Vec first = Vec::load(rows.first + from);
                const Vec second = Vec::load(rows.second + from);
                in[i] = rows.adds ? Vec::add(first, second) : Vec::subtract(first, second);
            }
            transform(in, output + product * winograd::kColumnProducts * run.product_step + channel,
                      run.product_step);
        }
    }
}

void winograd_inputs(const WinogradInputRun& run) {
    const WinogradInputs transform;
    std::ptrdiff_t at = 0;
    float* output = run.output;
    int columns = run.columns;
    for (; columns >= winograd::kColumnProducts; columns -= winograd::kColumns) {
        winograd_patch<true>(run, transform, at, columns, output);
        at += winograd::kColumns * run.input_step;
        output += run.channels;
    }
    if (columns >= winograd::kTaps) winograd_patch<false>(run, transform, at, columns, output);
}

// A: from six products to four outputs.
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

// A of columns: the products across of a row of a patch.
template <int kRow>
__attribute__((always_inline)) inline void winograd_row(const WinogradOutputRun& run, const float* products,
                                                        Vec* out) {
    EDGEFACE_UNROLL
    for (int i = 0; i < winograd::kColumnProducts; ++i) {
        const auto down = [&](int product) {
            return Vec::load(products + (product * winograd::kColumnProducts + i) * run.product_step);
        };
        out[i] = kRow == 0 ? Vec::add(down(0), Vec::add(down(1), down(2)))
                           : Vec::add(down(3), Vec::subtract(down(1), down(2)));
    }
}

// A row of a patch, channels `c` and on.
template <int kRow>
__attribute__((always_inline)) inline void winograd_pixels(const WinogradOutputRun& run,
                                                           const WinogradOutputs& transform,
                                                           const float* products, int pixel, int c) {
    Vec in[winograd::kColumnProducts];
    Vec out[winograd::kColumns];
    winograd_row<kRow>(run, products + c, in);
    transform(in, Vec::load(run.bias + c), out);
    bend_and_bound<winograd::kColumns>(run, out);
    const Vec low = Vec::broadcast(run.low);
    float* output = run.outputs[kRow] + pixel * run.output_step + c;
    EDGEFACE_UNROLL
    for (int i = 0; i < winograd::kColumns; ++i) {
        if (i < run.pixels - pixel) {
            store(Vec::max(out[i], low), output + i * run.output_step, run.channels - c);
        }
    }
}

void winograd_outputs(const WinogradOutputRun& run) {
    static_assert(winograd::kRows == 2, "both are here");
    const WinogradOutputs transform;
    const float* products = run.products;
    for (int pixel = 0; pixel < run.pixels; pixel += winograd::kColumns, products += run.patch_step) {
        for (int c = 0; c < run.channels; c += Vec::lanes) {
            winograd_pixels<0>(run, transform, products, pixel, c);
            if (run.outputs[1] != nullptr) winograd_pixels<1>(run, transform, products, pixel, c);
        }
    }
}
