// Quantised operations. Whatever is not a convolution is plain code: IEEE single operations one by one in a
// fixed order, so that it gives the same values on every CPU as the kernels do.
#include <array>
#include <cmath>
#include <limits>

#include "steps.h"

namespace edgeface::native {
namespace {

template <typename T>
struct Range;

// No published engine makes -128: products of pairs would overflow 16 bits on ARM.
template <>
struct Range<std::int8_t> {
    static constexpr int low = -127;
    static constexpr int high = 127;
};

template <>
struct Range<std::uint8_t> {
    static constexpr int low = 0;
    static constexpr int high = 255;
};

// The activation's bounds in steps of the output, within its type, less the zero point. Infinite bounds must
// not be rounded.
template <typename T>
Requantization requantization(const Clamp& clamp, const Quantization& to) {
    const auto low = static_cast<float>(Range<T>::low - to.zero_point);
    const auto high = static_cast<float>(Range<T>::high - to.zero_point);
    const float least = std::clamp(clamp.low / to.scale, low, high);
    const float most = std::clamp(clamp.high / to.scale, low, high);
    return {std::nearbyint(least), std::nearbyint(most), to.zero_point};
}

// Steps of the output -> stored value, as the kernels do it.
template <typename T>
T stored(float steps, const Requantization& to) {
    return static_cast<T>(static_cast<int>(std::nearbyint(std::clamp(steps, to.low, to.high))) +
                          to.zero_point);
}

constexpr Clamp kEverything{-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};
constexpr Clamp kPositive{0, std::numeric_limits<float>::infinity()};

template <typename T>
const auto& conv_kernel(const Kernels& kernels) {
    if constexpr (std::is_same_v<T, std::int8_t>) return kernels.conv_tile_int8;
    if constexpr (std::is_same_v<T, std::uint8_t>) return kernels.conv_tile_uint8;
}

template <typename T>
const auto& depthwise_kernel(const Kernels& kernels) {
    if constexpr (std::is_same_v<T, std::int8_t>) return kernels.depthwise_row_int8;
    if constexpr (std::is_same_v<T, std::uint8_t>) return kernels.depthwise_row_uint8;
}

// sum of (x - z) * w = sum of x * w - z * sum of w: the input's zero point, folded into the bias.
std::int32_t folded_bias(const QuantizedConv& conv, std::size_t channel, int zero_point) {
    const std::size_t count = conv.weight.size() / conv.bias.size();
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += conv.weight[channel * count + i];
    return conv.bias[channel] - zero_point * sum;
}

float multiplier(const QuantizedConv& conv, std::size_t channel, const Image& input, const Image& output) {
    return input.quantization.scale * conv.weight_scale[channel] / output.quantization.scale;
}

// One group as the tile kernel reads it; channels that do not exist are zero.
struct Packed {
    std::vector<std::int16_t> weights;
    std::vector<std::int32_t> bias;
    std::vector<float> multipliers;
};

Packed pack_conv(const QuantizedConv& conv, int group, int tile_channels, const Image& input,
                 const Image& output) {
    const int in_channels = input.shape.channels / conv.groups;
    const int out_channels = output.shape.channels / conv.groups;
    const int taps = conv.window.taps();
    const int pairs = ceil_divide(in_channels, 2);
    const std::size_t padded = size_of(ceil_divide(out_channels, tile_channels) * tile_channels);
    Packed packed;
    packed.bias.resize(padded);
    packed.multipliers.resize(padded);
    packed.weights.resize(padded * size_of(taps * pairs * 2));
    for (int o = 0; o < out_channels; ++o) {
        const std::size_t channel = size_of(group * out_channels + o);
        packed.bias[size_of(o)] = folded_bias(conv, channel, input.quantization.zero_point);
        packed.multipliers[size_of(o)] = multiplier(conv, channel, input, output);
        for (int c = 0; c < in_channels; ++c) {
            for (int tap = 0; tap < taps; ++tap) {
                const int row = (o / tile_channels * taps + tap) * pairs + c / 2;
                const int at = (row * tile_channels + o % tile_channels) * 2 + c % 2;
                packed.weights[size_of(at)] =
                    conv.weight[(channel * size_of(in_channels) + size_of(c)) * size_of(taps) + size_of(tap)];
            }
        }
    }
    return packed;
}

template <typename T>
class ConvStep : public TiledStep<T> {
  public:
    ConvStep(const QuantizedConv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : TiledStep<T>(conv.window, conv.groups, kernels.tile_pixels, input, output),
          kernel_(conv_kernel<T>(kernels)),
          to_(requantization<T>(conv.clamp, output.quantization)) {
        for (int group = 0; group < this->groups(); ++group) {
            packed_.push_back(pack_conv(conv, group, kernels.tile_channels, input, output));
        }
    }

  private:
    void run_tile(int group, const T* const* inputs, int first, int count) const override {
        const Packed& packed = packed_[size_of(group)];
        QuantizedConvTile<T> tile{};
        tile.inputs = inputs;
        tile.taps = this->taps();
        tile.channels = this->in_channels();
        tile.weights = packed.weights.data();
        tile.bias = packed.bias.data();
        tile.multipliers = packed.multipliers.data();
        tile.to = to_;
        tile.output = this->output(group, first);
        tile.pixels = count;
        tile.output_channels = this->out_channels();
        tile.output_stride = this->output_stride();
        kernel_(tile);
    }

    void (*kernel_)(const QuantizedConvTile<T>&);
    Requantization to_;
    std::vector<Packed> packed_;  // by group
};

template <typename T>
class DepthwiseStep : public RowStep<T> {
  public:
    DepthwiseStep(const QuantizedConv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : RowStep<T>(conv.window, input, output),
          kernel_(depthwise_kernel<T>(kernels)),
          to_(requantization<T>(conv.clamp, output.quantization)) {
        const int channels = this->channels();
        for (int tap = 0; tap < this->taps(); ++tap) {
            for (int c = 0; c < channels; ++c)
                weights_.push_back(conv.weight[size_of(c * this->taps() + tap)]);
        }
        for (int c = 0; c < channels; ++c) {
            bias_.push_back(folded_bias(conv, size_of(c), input.quantization.zero_point));
            multipliers_.push_back(multiplier(conv, size_of(c), input, output));
        }
    }

  private:
    void run_pixels(const Taps<T>& at, int count, T* output) const override {
        kernel_({at.inputs, at.steps, this->taps(), count, this->channels(), weights_.data(), bias_.data(),
                 multipliers_.data(), to_, output, this->output_stride()});
    }

    void (*kernel_)(const QuantizedDepthwiseRow<T>&);
    Requantization to_;
    std::vector<std::int16_t> weights_;
    std::vector<std::int32_t> bias_;
    std::vector<float> multipliers_;
};

// steps = fl(fl((a - za) * fl(sa / so)) + fl((b - zb) * fl(sb / so)))
template <typename T>
class AddStep : public PixelStep {
  public:
    AddStep(const Add& add, const Image& a, const Image& b, const Image& output)
        : PixelStep(output),
          a_(a),
          b_(b),
          ratio_a_(a.quantization.scale / output.quantization.scale),
          ratio_b_(b.quantization.scale / output.quantization.scale),
          to_(requantization<T>(add.clamp, output.quantization)) {}

  private:
    void run_pixels(int begin, int end) const override {
        const int zero_a = a_.quantization.zero_point;
        const int zero_b = b_.quantization.zero_point;
        for (int p = begin; p < end; ++p) {
            const T* a = pixel<const T>(a_, p);
            const T* b = pixel<const T>(b_, p);
            T* out = pixel<T>(output(), p);
            for (int c = 0; c < output().shape.channels; ++c) {
                const float scaled_a = static_cast<float>(a[c] - zero_a) * ratio_a_;
                const float scaled_b = static_cast<float>(b[c] - zero_b) * ratio_b_;
                out[c] = stored<T>(scaled_a + scaled_b, to_);
            }
        }
    }

    Image a_;
    Image b_;
    float ratio_a_;
    float ratio_b_;
    Requantization to_;
};

// From one scale to another, value by value: steps = fl((x - z) * fl(s / so)), or x itself where nothing
// changes.
template <typename T>
class MapStep : public PixelStep {
  public:
    MapStep(const Clamp& clamp, const Image& input, const Image& output)
        : PixelStep(output),
          input_(input) {
        const float ratio = input.quantization.scale / output.quantization.scale;
        const Requantization to = requantization<T>(clamp, output.quantization);
        for (int i = 0; i < 256; ++i) {
            const T value = static_cast<T>(i);
            const float steps = static_cast<float>(value - input.quantization.zero_point) * ratio;
            table_[static_cast<std::uint8_t>(value)] = stored<T>(steps, to);
        }
    }

  private:
    void run_pixels(int begin, int end) const override {
        const int in_channels = input_.shape.channels;
        const int out_channels = output().shape.channels;
        int value = begin * out_channels;
        for (int p = begin; p < end; ++p) {
            for (int c = 0; c < out_channels; ++c, ++value) {
                const T stored = pixel<const T>(input_, value / in_channels)[value % in_channels];
                pixel<T>(output(), p)[c] = table_[static_cast<std::uint8_t>(stored)];
            }
        }
    }

    Image input_;
    std::array<T, 256> table_{};
};

// e^x for x <= 0 in plain double arithmetic: a library's exp may differ in the last bit from machine to
// machine. x = k ln2 + r, |r| <= ln2 / 2; the Taylor series to r^13 leaves less than 2^-53 of the result.
double exponential(double x) {
    constexpr double kLog2 = 0.693147180559945309417232121458;
    constexpr int kTerms = 13;
    const double k = std::nearbyint(x / kLog2);
    const double r = x - k * kLog2;
    double sum = 1;
    for (int term = kTerms; term >= 1; --term) sum = 1 + sum * r / term;
    return std::ldexp(sum, static_cast<int>(k));
}

// exp() of the difference to the largest, which is one of 256 values, from a table of floats; their sum in
// order; steps = fl(fl(e / sum) / scale).
template <typename T>
class SoftmaxStep : public PixelStep {
  public:
    SoftmaxStep(const Image& input, const Image& output)
        : PixelStep(output),
          input_(input),
          to_(requantization<T>(kEverything, output.quantization)) {
        for (std::size_t i = 0; i < exponentials_.size(); ++i) {
            const double below = static_cast<double>(i) * static_cast<double>(input.quantization.scale);
            // Less than any float: the same as nothing.
            exponentials_[i] = below < 100 ? static_cast<float>(exponential(-below)) : 0;
        }
    }

  private:
    void run_pixels(int begin, int end) const override {
        for (int p = begin; p < end; ++p) softmax(pixel<const T>(input_, p), pixel<T>(output(), p));
    }

    void softmax(const T* in, T* out) const {
        const int channels = output().shape.channels;
        const int largest = *std::max_element(in, in + channels);
        float sum = 0;
        for (int c = 0; c < channels; ++c) sum += exponentials_[size_of(largest - in[c])];
        for (int c = 0; c < channels; ++c) {
            const float share = exponentials_[size_of(largest - in[c])] / sum;
            // `out` may be `in`, whose other values are read again: what is written belongs to the past only.
            out[c] = stored<T>(share / output().quantization.scale, to_);
        }
    }

    Image input_;
    Requantization to_;
    std::array<float, 256> exponentials_{};
};

}  // namespace

template <typename T>
std::unique_ptr<Step> make_quantized_conv(const QuantizedConv& conv, const Kernels& kernels,
                                          const Image& input, const Image& output) {
    if (is_depthwise(conv.groups, input, output)) {
        return std::make_unique<DepthwiseStep<T>>(conv, kernels, input, output);
    }
    return std::make_unique<ConvStep<T>>(conv, kernels, input, output);
}

template <typename T>
std::unique_ptr<Step> make_quantized_add(const Add& add, const Image& a, const Image& b,
                                         const Image& output) {
    return std::make_unique<AddStep<T>>(add, a, b, output);
}

template <typename T>
std::unique_ptr<Step> make_quantized_relu(const Image& input, const Image& output) {
    return std::make_unique<MapStep<T>>(kPositive, input, output);
}

template <typename T>
std::unique_ptr<Step> make_quantized_softmax(const Image& input, const Image& output) {
    return std::make_unique<SoftmaxStep<T>>(input, output);
}

template <typename T>
std::unique_ptr<Step> make_quantized_copy(const Image& input, const Image& output) {
    return std::make_unique<MapStep<T>>(kEverything, input, output);
}

#define EDGEFACE_INSTANTIATE(T)                                                                  \
    template std::unique_ptr<Step> make_quantized_conv<T>(const QuantizedConv&, const Kernels&,  \
                                                          const Image&, const Image&);           \
    template std::unique_ptr<Step> make_quantized_add<T>(const Add&, const Image&, const Image&, \
                                                         const Image&);                          \
    template std::unique_ptr<Step> make_quantized_relu<T>(const Image&, const Image&);           \
    template std::unique_ptr<Step> make_quantized_softmax<T>(const Image&, const Image&);        \
    template std::unique_ptr<Step> make_quantized_copy<T>(const Image&, const Image&);

EDGEFACE_INSTANTIATE(std::int8_t)
EDGEFACE_INSTANTIATE(std::uint8_t)
#undef EDGEFACE_INSTANTIATE

}  // namespace edgeface::native
