#include <cmath>
#include <limits>

#include "steps.h"

namespace edgeface::native {
namespace {

// Blocks of tile_channels output channels, each as the tile kernel reads it: bias, then a row of weights for
// every tap and input channel; channels that do not exist are zero.
std::vector<float> pack_conv(const Conv& conv, int group, int in_channels, int out_channels,
                             int tile_channels) {
    const int taps = conv.window.taps();
    const int blocks = ceil_divide(out_channels, tile_channels);
    std::vector<float> packed(size_of(blocks) * size_of(1 + taps * in_channels) * size_of(tile_channels));
    float* out = packed.data();
    for (int block = 0; block < blocks; ++block) {
        const int first = block * tile_channels;
        const int count = std::min(tile_channels, out_channels - first);
        const auto channel = [&](int i) { return size_of(group * out_channels + first + i); };
        for (int i = 0; i < count; ++i) out[i] = conv.bias[channel(i)];
        out += tile_channels;
        for (int tap = 0; tap < taps; ++tap) {
            for (int c = 0; c < in_channels; ++c, out += tile_channels) {
                for (int i = 0; i < count; ++i) {
                    out[i] = conv.weight[(channel(i) * size_of(in_channels) + size_of(c)) * size_of(taps) +
                                         size_of(tap)];
                }
            }
        }
    }
    return packed;
}

class ConvStep : public TiledStep<float> {
  public:
    ConvStep(const Conv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : TiledStep(conv.window, conv.groups, kernels.tile_pixels, input, output),
          kernels_(kernels),
          clamp_(conv.clamp) {
        for (int group = 0; group < groups(); ++group) {
            packed_.push_back(pack_conv(conv, group, in_channels(), out_channels(), kernels.tile_channels));
        }
    }

  private:
    void run_tile(int group, const float* const* inputs, int first, int count) const override {
        ConvTile tile{};
        tile.inputs = inputs;
        tile.taps = taps();
        tile.channels = in_channels();
        tile.weights = packed_[size_of(group)].data();
        tile.output = TiledStep::output(group, first);
        tile.pixels = count;
        tile.output_channels = out_channels();
        tile.output_stride = output_stride();
        tile.low = clamp_.low;
        tile.high = clamp_.high;
        kernels_.conv_tile(tile);
    }

    const Kernels& kernels_;
    Clamp clamp_;
    std::vector<std::vector<float>> packed_;  // by group
};

class DepthwiseStep : public RowStep<float> {
  public:
    DepthwiseStep(const Conv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : RowStep(conv.window, input, output),
          kernels_(kernels),
          clamp_(conv.clamp),
          weights_(conv.bias) {
        for (int tap = 0; tap < taps(); ++tap) {
            for (int c = 0; c < channels(); ++c) weights_.push_back(conv.weight[size_of(c * taps() + tap)]);
        }
    }

  private:
    void run_pixels(const Taps<float>& at, int count, float* output) const override {
        kernels_.depthwise_row({at.inputs, at.steps, taps(), count, channels(), weights_.data(), output,
                                output_stride(), clamp_.low, clamp_.high});
    }

    const Kernels& kernels_;
    Clamp clamp_;
    std::vector<float> weights_;
};

class AddStep : public PixelStep {
  public:
    AddStep(const Add& add, const Kernels& kernels, const Image& a, const Image& b, const Image& output)
        : PixelStep(output),
          kernels_(kernels),
          clamp_(add.clamp),
          a_(a),
          b_(b) {}

  private:
    void run_pixels(int begin, int end) const override {
        const std::size_t channels = size_of(output().shape.channels);
        if (a_.is_dense() && b_.is_dense() && output().is_dense())
            return add(begin, size_of(end - begin) * channels);
        for (int p = begin; p < end; ++p) add(p, channels);
    }

    void add(int p, std::size_t count) const {
        kernels_.add(pixel<const float>(a_, p), pixel<const float>(b_, p), pixel<float>(output(), p), count,
                     clamp_.low, clamp_.high);
    }

    const Kernels& kernels_;
    Clamp clamp_;
    Image a_;
    Image b_;
};

class ReluStep : public PixelStep {
  public:
    ReluStep(const Kernels& kernels, const Image& input, const Image& output)
        : PixelStep(output),
          kernels_(kernels),
          input_(input) {}

  private:
    void run_pixels(int begin, int end) const override {
        const std::size_t channels = size_of(output().shape.channels);
        if (input_.is_dense() && output().is_dense()) return relu(begin, size_of(end - begin) * channels);
        for (int p = begin; p < end; ++p) relu(p, channels);
    }

    void relu(int p, std::size_t count) const {
        kernels_.clamp(pixel<const float>(input_, p), pixel<float>(output(), p), count, 0,
                       std::numeric_limits<float>::infinity());
    }

    const Kernels& kernels_;
    Image input_;
};

class SoftmaxStep : public PixelStep {
  public:
    SoftmaxStep(const Image& input, const Image& output)
        : PixelStep(output),
          input_(input) {}

  private:
    void run_pixels(int begin, int end) const override {
        const int channels = output().shape.channels;
        for (int p = begin; p < end; ++p)
            softmax(pixel<const float>(input_, p), pixel<float>(output(), p), channels);
    }

    // Less the largest, so that no exp() overflows.
    static void softmax(const float* in, float* out, int channels) {
        const float largest = *std::max_element(in, in + channels);
        float sum = 0;
        for (int c = 0; c < channels; ++c) sum += out[c] = std::exp(in[c] - largest);
        for (int c = 0; c < channels; ++c) out[c] /= sum;
    }

    Image input_;
};

class CopyStep : public PixelStep {
  public:
    CopyStep(const Image& input, const Image& output)
        : PixelStep(output),
          input_(input) {}

  private:
    void run_pixels(int begin, int end) const override {
        const int in_channels = input_.shape.channels;
        const int out_channels = output().shape.channels;
        int value = begin * out_channels;
        for (int p = begin; p < end; ++p) {
            for (int c = 0; c < out_channels; ++c, ++value) {
                pixel<float>(output(), p)[c] =
                    pixel<const float>(input_, value / in_channels)[value % in_channels];
            }
        }
    }

    Image input_;
};

}  // namespace

std::unique_ptr<Step> make_conv(const Conv& conv, const Kernels& kernels, const Image& input,
                                const Image& output) {
    if (is_depthwise(conv.groups, input, output)) {
        return std::make_unique<DepthwiseStep>(conv, kernels, input, output);
    }
    return std::make_unique<ConvStep>(conv, kernels, input, output);
}

std::unique_ptr<Step> make_add(const Add& add, const Kernels& kernels, const Image& a, const Image& b,
                               const Image& output) {
    return std::make_unique<AddStep>(add, kernels, a, b, output);
}

std::unique_ptr<Step> make_relu(const Kernels& kernels, const Image& input, const Image& output) {
    return std::make_unique<ReluStep>(kernels, input, output);
}

std::unique_ptr<Step> make_softmax(const Image& input, const Image& output) {
    return std::make_unique<SoftmaxStep>(input, output);
}

std::unique_ptr<Step> make_copy(const Image& input, const Image& output) {
    return std::make_unique<CopyStep>(input, output);
}

}  // namespace edgeface::native
