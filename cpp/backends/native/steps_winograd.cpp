#include <limits>

#include "steps.h"

namespace edgeface::native {
namespace {

using winograd::kPatch;
using winograd::kProducts;
using winograd::kTaps;

// What a row of three taps becomes for a product: G of winograd.h, which divides by what B has too much.
double product_weight(int product, const float* taps) {
    constexpr double kPoints[] = {0, winograd::kA, -winograd::kA, winograd::kB, -winograd::kB};
    if (product == kProducts - 1) return taps[2];
    const double point = kPoints[product];
    double divisor = 1;
    for (int other = 0; other < kProducts - 1; ++other) {
        if (other != product) divisor *= point - kPoints[other];
    }
    return (taps[0] + point * (taps[1] + point * taps[2])) / divisor;
}

// A product's share of a convolution: a column of three taps over patches, without bias or activation.
Conv product_conv(const Conv& conv, int product) {
    Conv share;
    share.window.kernel_height = kTaps;
    share.bias.resize(conv.bias.size());
    for (std::size_t i = 0; i < conv.weight.size(); i += size_of(kTaps))
        share.weight.push_back(static_cast<float>(product_weight(product, conv.weight.data() + i)));
    return share;
}

// Some rows of the output at a time: their inputs' factors, then product by product a convolution of three
// rows, then outputs from all products.
class WinogradStep : public WindowStep<float> {
  public:
    WinogradStep(const Conv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : WindowStep(conv.window, input),
          kernels_(kernels),
          clamp_(conv.clamp),
          width_(output.shape.width),
          out_channels_(output.shape.channels),
          product_channels_(ceil_divide(out_channels_, winograd::kMostLanes) * winograd::kMostLanes),
          block_(block_rows(output.shape)),
          bias_(conv.bias) {
        bias_.resize(size_of(product_channels_));
        for (int product = 0; product < kProducts; ++product) {
            packed_.push_back(
                pack_conv(product_conv(conv, product), 0, channels(), out_channels_, kernels.tile_channels));
        }
    }

    std::size_t scratch() const override { return size_of(bytes(block_)); }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte* scratch) const override {
        auto* room = reinterpret_cast<float*>(scratch);
        for (int y = rows.begin; y < rows.end; y += block_)
            run_block(*inputs[0], output, {y, std::min(y + block_, rows.end)}, room);
    }

  private:
    // What lies in the scratch at a time. Of RetinaFace's layers on a Zen 4, which has 1 MiB of level 2, 192
    // KiB take 2 to 5 % more time than 384, and 96 KiB 3 to 8 %; 768 take no less. Most CPUs have less than 1
    // MiB.
    static constexpr std::ptrdiff_t kBlockBytes = 256 * 1024;
    // At least, so that weights which fit into no cache are not read again for every row: at 10x10x512 to
    // 512 a row at a time takes twice as long.
    static constexpr int kBlockPatches = 48;

    int patches() const { return ceil_divide(width_, kPatch); }
    // Values of one product in so many rows.
    std::ptrdiff_t factors(int rows) const { return std::ptrdiff_t{rows} * patches() * channels(); }
    std::ptrdiff_t products(int rows) const { return std::ptrdiff_t{rows} * patches() * product_channels_; }
    std::ptrdiff_t bytes(int rows) const {
        return kProducts * (factors(rows + kTaps - 1) + products(rows)) *
               static_cast<std::ptrdiff_t>(sizeof(float));
    }

    int block_rows(const Shape& output) const {
        int rows = ceil_divide(kBlockPatches, patches());
        while (rows < output.height && bytes(rows + 1) <= kBlockBytes) ++rows;
        return std::min(rows, output.height);
    }

    void run_block(const Image& input, const Image& output, Rows rows, float* room) const {
        const int count = rows.end - rows.begin;
        const std::ptrdiff_t factors_step = factors(count + kTaps - 1);
        float* const made = room + kProducts * factors_step;
        for (int i = 0; i < count + kTaps - 1; ++i) {
            kernels_.winograd_inputs({tap_row(input, rows.begin + i, 0), input.stride, width_ + kTaps - 1,
                                      channels(), room + factors(i), factors_step});
        }
        for (int product = 0; product < kProducts; ++product)
            multiply(product, count, room + product * factors_step, made + product * products(count));
        for (int i = 0; i < count; ++i) {
            kernels_.winograd_outputs({made + products(i), products(count), product_channels_, bias_.data(),
                                       row<float>(output, rows.begin + i), width_, out_channels_,
                                       output.stride, clamp_.low, clamp_.high, clamp_.slope});
        }
    }

    void multiply(int product, int rows, const float* from, float* to) const {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        const float* taps[kTaps];
        for (int tap = 0; tap < kTaps; ++tap) taps[tap] = from + factors(tap);
        kernels_.conv({taps, kTaps, channels(), channels(), packed_[size_of(product)].data(), to,
                       rows * patches(), out_channels_, product_channels_, -kInfinity, kInfinity, 1});
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

// Of 16 channels, 4 patches already take .7 of the time on AVX2 and AVX-512, and fewer more than all of it;
// the tile of 12 is not even filled. Any number of output channels wins.
bool wins_by_winograd(const Conv& conv, const Shape& input, const Shape& output) {
    constexpr int kFewestPatches = 4;
    const Window& window = conv.window;
    return window.kernel_height == kTaps && window.kernel_width == kTaps && window.stride_y == 1 &&
           window.stride_x == 1 && window.dilation_y == 1 && window.dilation_x == 1 && conv.groups == 1 &&
           input.channels >= winograd::kMostLanes &&
           std::int64_t{output.height} * ceil_divide(output.width, kPatch) >= kFewestPatches;
}

std::unique_ptr<Step> make_winograd_conv(const Conv& conv, const Kernels& kernels, const Image& input,
                                         const Image& output) {
    return std::make_unique<WinogradStep>(conv, kernels, input, output);
}

}  // namespace edgeface::native
