#include <limits>

#include "steps.h"

namespace edgeface::native {
namespace {

using winograd::kFactors;
using winograd::kOutputs;
using winograd::kProducts;
using winograd::kTaps;

// In the scratch at a time at least, where as many rows are wanted, so that weights which fit into no cache
// are not read again for every row of patches.
constexpr int kBlockPatches = 48;

// What three taps become for a product: G of winograd.h, which divides by what B has too much.
double product_weight(int product, const double* taps) {
    constexpr double kPoints[] = {0, winograd::kA, -winograd::kA, winograd::kB, -winograd::kB};
    if (product == kFactors - 1) return taps[2];
    const double point = kPoints[product];
    double divisor = 1;
    for (int other = 0; other < kFactors - 1; ++other) {
        if (other != product) divisor *= point - kPoints[other];
    }
    return (taps[0] + point * (taps[1] + point * taps[2])) / divisor;
}

double product_weight(int product, const float* taps) {
    double rows[kTaps];
    for (double& row : rows) {
        const double of_row[] = {taps[0], taps[1], taps[2]};
        row = product_weight(product % kFactors, of_row);
        taps += kTaps;
    }
    return product_weight(product / kFactors, rows);
}

// A product's share of a convolution: pointwise over patches, without bias or activation.
Conv product_conv(const Conv& conv, int product) {
    Conv share;
    share.bias.resize(conv.bias.size());
    for (std::size_t i = 0; i < conv.weight.size(); i += size_of(kTaps * kTaps))
        share.weight.push_back(static_cast<float>(product_weight(product, conv.weight.data() + i)));
    return share;
}

// Some rows of patches at a time: their inputs' factors, then product by product a pointwise convolution,
// then outputs from all products.
class WinogradStep : public WindowStep<float> {
  public:
    WinogradStep(const Conv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : WindowStep(conv.window, input),
          kernels_(kernels),
          clamp_(conv.clamp),
          width_(output.shape.width),
          out_channels_(output.shape.channels),
          product_channels_(round_up(out_channels_, winograd::kMostLanes)),
          block_(block_rows(output.shape)),
          bias_(conv.bias) {
        bias_.resize(size_of(product_channels_));
        for (int product = 0; product < kProducts; ++product) {
            packed_.push_back(
                pack_conv(product_conv(conv, product), 0, channels(), out_channels_, kernels.tile_channels));
        }
    }

    int together() const override { return kOutputs; }
    std::size_t scratch() const override { return size_of(bytes(block_)); }

    // Of the last patches' rows, too, where the image ends before.
    Rows reads(Rows rows) const override {
        return WindowStep::reads({rows.begin, round_up(rows.end, kOutputs)});
    }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte* scratch) const override {
        auto* room = reinterpret_cast<float*>(scratch);
        for (int y = rows.begin; y < rows.end; y += block_)
            run_block(*inputs[0], output, {y, std::min(y + block_, rows.end)}, room);
    }

  private:
    // What lies in the scratch at a time. RetinaFace mobilenet0.25 takes 1 to 2 % less time with 768 KiB on a
    // Zen 4, which has 1 MiB of level 2. Most CPUs have less.
    static constexpr std::ptrdiff_t kBlockBytes = 256 * 1024;

    int patches() const { return ceil_divide(width_, kOutputs); }
    // Values of one product in so many rows of patches.
    std::ptrdiff_t factors(int count) const { return std::ptrdiff_t{count} * patches() * channels(); }
    std::ptrdiff_t products(int count) const { return std::ptrdiff_t{count} * patches() * product_channels_; }
    // From one product's to the next: an odd number of cache lines, so that a patch's are in different sets.
    static std::ptrdiff_t step(std::ptrdiff_t values) {
        constexpr std::ptrdiff_t kLine = 64 / sizeof(float);
        return ((values + kLine - 1) / kLine | 1) * kLine;
    }
    std::ptrdiff_t bytes(int rows) const {
        const int count = ceil_divide(rows, kOutputs);
        return kProducts * (step(factors(count)) + step(products(count))) *
               static_cast<std::ptrdiff_t>(sizeof(float));
    }

    int block_rows(const Shape& output) const {
        int rows = ceil_divide(kBlockPatches, patches()) * kOutputs;
        while (rows < output.height && bytes(rows + kOutputs) <= kBlockBytes) rows += kOutputs;
        return std::min(rows, round_up(output.height, kOutputs));
    }

    void run_block(const Image& input, const Image& output, Rows rows, float* room) const {
        const int count = ceil_divide(rows.end - rows.begin, kOutputs);
        const std::ptrdiff_t factors_step = step(factors(count)), products_step = step(products(count));
        float* const made = room + kProducts * factors_step;
        for (int i = 0; i < count; ++i) {
            WinogradInputRun run{{},         input.stride,      width_ + kTaps - 1,
                                 channels(), room + factors(i), factors_step};
            for (int row = 0; row < kFactors; ++row)
                run.inputs[row] = tap_row(input, rows.begin + i * kOutputs + row, 0);
            kernels_.winograd_inputs(run);
        }
        for (int product = 0; product < kProducts; ++product)
            multiply(product, count, room + product * factors_step, made + product * products_step);
        for (int i = 0; i < count; ++i) {
            WinogradOutputRun run{
                made + products(i), products_step, product_channels_, bias_.data(), {},          width_,
                out_channels_,      output.stride, clamp_.low,        clamp_.high,  clamp_.slope};
            for (int y = rows.begin + i * kOutputs, row = 0; row < kOutputs && y + row < rows.end; ++row)
                run.outputs[row] = native::row<float>(output, y + row);
            kernels_.winograd_outputs(run);
        }
    }

    void multiply(int product, int count, const float* from, float* to) const {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        kernels_.conv({&from, 1, channels(), channels(), packed_[size_of(product)].data(), to,
                       count * patches(), out_channels_, product_channels_, -kInfinity, kInfinity, 1});
    }

    const Kernels& kernels_;
    Clamp clamp_;
    int width_;
    int out_channels_;
    int product_channels_;  // from one patch's products to the next
    int block_;             // rows at a time
    std::vector<float> bias_;
    std::vector<std::vector<float>> packed_;  // by product
};

}  // namespace

// Of 16 to 256 channels, two patches of three or more rows take .5 to 1.1 of the time on AVX2 and AVX-512;
// one patch or a single row takes up to 2.4 times as long. What lies in the scratch at least must not be
// huge.
bool wins_by_winograd(const Conv& conv, const Shape& input, const Shape& output) {
    constexpr int kFewestRows = 3;
    constexpr int kFewestPatches = 2;
    constexpr std::int64_t kMostValues = 1 << 28;
    const Window& window = conv.window;
    const std::int64_t across = ceil_divide(output.width, kOutputs);
    const std::int64_t channels = std::int64_t{input.channels} + output.channels + winograd::kMostLanes;
    return window.kernel_height == kTaps && window.kernel_width == kTaps && window.stride_y == 1 &&
           window.stride_x == 1 && window.dilation_y == 1 && window.dilation_x == 1 && conv.groups == 1 &&
           input.channels >= winograd::kMostLanes && output.height >= kFewestRows &&
           ceil_divide(output.height, kOutputs) * across >= kFewestPatches &&
           std::max<std::int64_t>(across, kBlockPatches) * channels <= kMostValues / kProducts;
}

std::unique_ptr<Step> make_winograd_conv(const Conv& conv, const Kernels& kernels, const Image& input,
                                         const Image& output) {
    return std::make_unique<WinogradStep>(conv, kernels, input, output);
}

}  // namespace edgeface::native
