// Quantised operations. Whatever is not a convolution is plain code: IEEE single operations one by one in a
// fixed order, so that it gives the same values on every CPU as the kernels do.
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>

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
Requantization requantization(const Clamp& clamp, const Image& output) {
    const Quantization& to = output.quantization;
    const auto low = static_cast<float>(Range<T>::low - to.zero_point);
    const auto high = static_cast<float>(std::min(Range<T>::high, output.reach - 1) - to.zero_point);
    const float least = std::clamp(clamp.low / to.scale, low, high);
    const float most = std::clamp(clamp.high / to.scale, low, high);
    return {std::nearbyint(least), std::nearbyint(most), to.zero_point, clamp.slope, false, false};
}

// Steps of the output -> stored value, as the kernels do it.
template <typename T>
T stored(float steps, const Requantization& to) {
    const float bent = std::max(steps, steps * to.slope);
    return static_cast<T>(static_cast<int>(std::nearbyint(std::clamp(bent, to.low, to.high))) +
                          to.zero_point);
}

constexpr Clamp kEverything{-std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity()};

template <typename T>
const QuantizedKernels<T>& kernels_for(const Kernels& kernels) {
    if constexpr (std::is_same_v<T, std::int8_t>) return kernels.int8;
    if constexpr (std::is_same_v<T, std::uint8_t>) return kernels.uint8;
}

bool is_narrow(const std::vector<std::int16_t>& weights) {
    return std::all_of(weights.begin(), weights.end(), [](int weight) { return std::abs(weight) <= 127; });
}

// How large a sum of weights may be so that its products with stored values fit in 16 bits, whatever those
// are.
template <typename T>
int largest_weight_sum(const Image& input) {
    constexpr int kFarthest = std::max(1 - Range<T>::low, 1 + Range<T>::high);
    return std::numeric_limits<std::int16_t>::max() / std::min(input.reach, kFarthest);
}

// How many of these weights may be in one.
template <typename T>
int chain(const std::vector<std::int16_t>& weights, const Image& input) {
    const int largest = std::accumulate(weights.begin(), weights.end(), 1, [](int most, int weight) {
        return std::max(most, std::abs(weight));
    });
    return largest_weight_sum<T>(input) / largest;
}

// The most taps of every channel that may be, from the first on and from the next ones on.
template <typename T>
int depthwise_chain(const std::vector<std::int16_t>& weights, std::size_t taps, const Image& input) {
    const auto fits = [&](std::size_t chain) {
        int sum = 0;
        for (std::size_t i = 0; i < weights.size(); ++i) {
            sum = (i % taps % chain == 0 ? 0 : sum) + std::abs(weights[i]);
            if (sum > largest_weight_sum<T>(input)) return false;
        }
        return true;
    };
    std::size_t chain = taps;
    while (chain > 1 && !fits(chain)) --chain;
    return static_cast<int>(chain);
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

// More than which no sum of a channel can be, of either sign.
template <typename T>
double largest_sum(const QuantizedConv& conv, std::size_t channel, const Image& input) {
    constexpr int kLargest =
        std::max(-int{std::numeric_limits<T>::min()}, int{std::numeric_limits<T>::max()});
    const std::size_t count = conv.weight.size() / conv.bias.size();
    double sum = std::abs(static_cast<double>(folded_bias(conv, channel, input.quantization.zero_point)));
    for (std::size_t i = 0; i < count; ++i) sum += kLargest * std::abs(int{conv.weight[channel * count + i]});
    return sum;
}

constexpr double kInt32 = std::numeric_limits<std::int32_t>::max();

template <typename T>
bool has_no_bound_above(const Requantization& to) {
    return to.slope == 1 && static_cast<int>(to.high) + to.zero_point == Range<T>::high;
}

// As far as the kernels may make it easy for themselves.
template <typename T>
Requantization requantization(const QuantizedConv& conv, const Image& input, const Image& output) {
    constexpr double kMantissa = 1 << 23;
    Requantization to = requantization<T>(conv.clamp, output);
    to.plain = has_no_bound_above<T>(to);
    to.small = to.plain && to.low == 0 && to.zero_point == 0;
    for (std::size_t channel = 0; channel < conv.bias.size(); ++channel) {
        const double sum = largest_sum<T>(conv, channel, input);
        to.plain = to.plain && sum * double{multiplier(conv, channel, input, output)} < kInt32;
        to.small = to.small && to.plain && sum < kMantissa;
    }
    return to;
}

// One group as the kernel reads it; channels that do not exist are zero.
struct Packed {
    std::vector<std::byte> weights;
    std::vector<std::int32_t> bias;
    std::vector<float> multipliers;
};

// `channels` are those of one tap as the kernel sees it, of `taps` such taps.
struct Packing {
    QuantizedLayout layout;
    int tile_channels;
    int taps;
    int channels;
};

void pack_weight(const Packing& packing, int output, int tap, int channel, std::int16_t weight,
                 std::vector<std::byte>& packed) {
    const int depth = packing.layout.depth;
    const int groups = ceil_divide(packing.channels, depth);
    const int block = output / packing.tile_channels * packing.taps * groups;
    const int group = (block + tap * groups + channel / depth) * packing.tile_channels;
    const int at = (group + output % packing.tile_channels) * depth + channel % depth;
    const auto narrow = static_cast<std::int8_t>(weight);
    if (packing.layout.weight_bytes == 1) {
        std::memcpy(&packed[size_of(at)], &narrow, sizeof(narrow));
    } else {
        std::memcpy(&packed[size_of(at) * sizeof(weight)], &weight, sizeof(weight));
    }
}

template <typename T>
class ConvStep : public WindowStep<T> {
  public:
    ConvStep(const QuantizedConv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : WindowStep<T>(conv.window, input),
          kernels_(is_narrow(conv.weight) ? kernels_for<T>(kernels).narrow : kernels_for<T>(kernels).wide),
          to_(requantization<T>(conv, input, output)),
          chain_(chain<T>(conv.weight, input)),
          columns_(folds(conv.window, conv.groups, input) ? 1 : conv.window.kernel_width),
          channels_(input.shape.channels / conv.groups * conv.window.kernel_width / columns_),
          in_channels_(input.shape.channels / conv.groups),
          out_channels_(output.shape.channels / conv.groups),
          row_(row_length(input, output)) {
        for (int group = 0; group < conv.groups; ++group)
            packed_.push_back(pack(conv, group, kernels.tile_channels, input, output));
    }

    std::size_t scratch() const override {
        if (kernels_.prepare == nullptr) return 0;
        return size_of(this->window().kernel_height) * prepared_row();
    }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte* scratch) const override {
        const Image& input = *inputs[0];
        if (!this->is_pointwise()) {
            for (int y = rows.begin; y < rows.end; ++y) run_row(input, output, y, scratch);
            return;
        }
        for_each_run({&output, &input}, rows, [&](int y, int pixels) {
            for (int x = 0; x < pixels; x += kChunk) {
                const int count = std::min(kChunk, pixels - x);
                const std::byte* first =
                    prepared(pixel<const T>(input, y, x), (count - 1) * input.stride + input.shape.channels,
                             scratch, 0);
                run_groups(&first, 1, input, output, pixel<T>(output, y, x), count);
            }
        });
    }

  private:
    // Pixels that a pointwise convolution prepares at a time: whole tiles of every ISA.
    static constexpr int kChunk = 96;

    Packed pack(const QuantizedConv& conv, int group, int tile_channels, const Image& input,
                const Image& output) const {
        const int taps = conv.window.taps() * in_channels_ / channels_;
        const Packing packing{kernels_.layout, tile_channels, taps, channels_};
        const std::size_t padded = size_of(round_up(out_channels_, tile_channels));
        Packed packed;
        packed.bias.resize(padded);
        packed.multipliers.resize(padded);
        const int depth = packing.layout.depth;
        packed.weights.resize(padded * size_of(taps * round_up(channels_, depth)) *
                              size_of(packing.layout.weight_bytes));
        for (int o = 0; o < out_channels_; ++o) {
            const std::size_t channel = size_of(group * out_channels_ + o);
            packed.bias[size_of(o)] =
                folded_bias(conv, channel, input.quantization.zero_point + packing.layout.offset);
            packed.multipliers[size_of(o)] = multiplier(conv, channel, input, output);
            for (int tap = 0; tap < conv.window.taps(); ++tap) {
                for (int c = 0; c < in_channels_; ++c) {
                    const std::size_t at =
                        (channel * size_of(in_channels_) + size_of(c)) * size_of(conv.window.taps()) +
                        size_of(tap);
                    const int value = tap * in_channels_ + c;
                    pack_weight(packing, o, value / channels_, value % channels_, conv.weight[at],
                                packed.weights);
                }
            }
        }
        return packed;
    }

    // Values that one row of the window's taps reads for all pixels of a row, or of a chunk.
    std::ptrdiff_t row_length(const Image& input, const Image& output) const {
        const Window& window = this->window();
        const int pixels = this->is_pointwise() ? kChunk : output.shape.width;
        const int reach = (pixels - 1) * window.stride_x + (window.kernel_width - 1) * window.dilation_x;
        return reach * input.stride + input.shape.channels;
    }

    std::size_t prepared_row() const { return size_of(row_ * kernels_.layout.input_bytes) + this->kSlack; }

    // In the scratch's `place`-th row; there is no scratch where there is nothing to prepare.
    const std::byte* prepared(const T* values, std::ptrdiff_t count, std::byte* scratch, int place) const {
        if (kernels_.prepare == nullptr) return reinterpret_cast<const std::byte*>(values);
        std::byte* to = scratch + size_of(place) * prepared_row();
        kernels_.prepare(values, to, size_of(count));
        return to;
    }

    void run_row(const Image& input, const Image& output, int y, std::byte* scratch) const {
        const std::byte* taps[kMaxTaps];
        const std::ptrdiff_t step = this->column_step(input) * kernels_.layout.input_bytes;
        int count = 0;
        for (int ky = 0; ky < this->window().kernel_height; ++ky) {
            const std::byte* first = prepared(this->tap_row(input, y, ky), row_, scratch, ky);
            for (int kx = 0; kx < columns_; ++kx) taps[count++] = first + kx * step;
        }
        run_groups(taps, count, input, output, row<T>(output, y), output.shape.width);
    }

    void run_groups(const std::byte** taps, int count, const Image& input, const Image& output, T* out,
                    int pixels) const {
        for (const Packed& packed : packed_) {
            kernels_.conv({taps, count, channels_, this->input_step(input) * kernels_.layout.input_bytes,
                           packed.weights.data(), packed.bias.data(), packed.multipliers.data(), to_, out,
                           pixels, out_channels_, output.stride, chain_});
            for (int i = 0; i < count; ++i) taps[i] += in_channels_ * kernels_.layout.input_bytes;
            out += out_channels_;
        }
    }

    QuantizedConvKernels<T> kernels_;
    Requantization to_;
    int chain_;
    int columns_;   // taps of one row of the window, as the kernel sees them
    int channels_;  // of one such tap
    int in_channels_;
    int out_channels_;  // of a group, both
    std::ptrdiff_t row_;
    std::vector<Packed> packed_;  // by group
};

template <typename T>
class DepthwiseStep : public WindowStep<T> {
  public:
    DepthwiseStep(const QuantizedConv& conv, const Kernels& kernels, const Image& input, const Image& output)
        : WindowStep<T>(conv.window, input),
          kernels_(kernels_for<T>(kernels)),
          to_(requantization<T>(conv, input, output)),
          chain_(depthwise_chain<T>(conv.weight, size_of(conv.window.taps()), input)),
          narrow_(is_narrow(conv.weight)) {
        const int taps = conv.window.taps();
        for (int tap = 0; tap < taps; ++tap) {
            for (int c = 0; c < this->channels(); ++c)
                weights_.push_back(conv.weight[size_of(c * taps + tap)]);
        }
        for (int c = 0; c < this->channels(); ++c) {
            bias_.push_back(folded_bias(conv, size_of(c), input.quantization.zero_point));
            multipliers_.push_back(multiplier(conv, size_of(c), input, output));
        }
    }

    int together() const override { return kernels_.depthwise_rows; }

    // Several rows at a time: as many as the pointers to their taps fit on the stack.
    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        constexpr int kMost = 8;
        const T* taps[kMaxTaps];
        QuantizedDepthwiseRun<T> runs[kMost];
        const int window = this->window().taps();
        const int most = std::min(kMost, kMaxTaps / window);
        for (int y = rows.begin; y < rows.end; y += most) {
            const int count = std::min(most, rows.end - y);
            for (int i = 0; i < count; ++i) runs[i] = row_run(*inputs[0], output, y + i, taps + i * window);
            kernels_.depthwise(runs, count);
        }
    }

  private:
    QuantizedDepthwiseRun<T> row_run(const Image& input, const Image& output, int y, const T** taps) const {
        const Window& window = this->window();
        this->find_taps(input, y, window.kernel_width, taps);
        return {taps,
                window.taps(),
                this->input_step(input),
                window.kernel_width == 3 ? this->column_step(input) : 0,
                weights_.data(),
                narrow_,
                bias_.data(),
                multipliers_.data(),
                to_,
                row<T>(output, y),
                output.shape.width,
                this->channels(),
                output.stride,
                chain_};
    }

    const QuantizedKernels<T>& kernels_;
    Requantization to_;
    int chain_;
    bool narrow_;
    std::vector<std::int16_t> weights_;
    std::vector<std::int32_t> bias_;
    std::vector<float> multipliers_;
};

// steps = fl(fl((a - za) * fl(sa / so)) + fl((b - zb) * fl(sb / so)))
template <typename T>
class AddStep : public Step {
  public:
    AddStep(const Add& add, const Kernels& kernels, const Image& a, const Image& b, const Image& output)
        : kernel_(kernels_for<T>(kernels).add),
          zero_a_(a.quantization.zero_point),
          zero_b_(b.quantization.zero_point),
          ratio_a_(a.quantization.scale / output.quantization.scale),
          ratio_b_(b.quantization.scale / output.quantization.scale),
          to_(requantization<T>(add.clamp, output)) {
        to_.plain = has_no_bound_above<T>(to_) && 255.0 * (double{ratio_a_} + double{ratio_b_}) < kInt32;
    }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& a = *inputs[0];
        const Image& b = *inputs[1];
        for_each_stretch({&output, &a, &b}, rows, [&](int y, int x, int count) {
            kernel_({pixel<const T>(a, y, x), pixel<const T>(b, y, x), pixel<T>(output, y, x), size_of(count),
                     zero_a_, zero_b_, ratio_a_, ratio_b_, to_});
        });
    }

  private:
    void (*kernel_)(const QuantizedAddRun<T>&);
    int zero_a_;
    int zero_b_;
    float ratio_a_;
    float ratio_b_;
    Requantization to_;
};

// From one scale to another, value by value: steps = fl((x - z) * fl(s / so)). Where shapes agree, as the sum
// of the value and nothing.
template <typename T>
class MapStep : public Step {
  public:
    MapStep(const Clamp& clamp, const Kernels& kernels, const Image& input, const Image& output)
        : kernel_(kernels_for<T>(kernels).add),
          zero_point_(input.quantization.zero_point),
          ratio_(input.quantization.scale / output.quantization.scale),
          to_(requantization<T>(clamp, output)) {
        to_.plain = has_no_bound_above<T>(to_) && 255.0 * double{ratio_} < kInt32;
    }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        if (!(input.shape == output.shape)) {
            return for_each_value<T>(input, output, rows, [&](const T* from, T* to) {
                *to = stored<T>(static_cast<float>(*from - zero_point_) * ratio_, to_);
            });
        }
        for_each_stretch({&output, &input}, rows, [&](int y, int x, int count) {
            const T* values = pixel<const T>(input, y, x);
            kernel_({values, values, pixel<T>(output, y, x), size_of(count), zero_point_, zero_point_, ratio_,
                     0, to_});
        });
    }

  private:
    void (*kernel_)(const QuantizedAddRun<T>&);
    int zero_point_;
    float ratio_;
    Requantization to_;
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
class SoftmaxStep : public Step {
  public:
    SoftmaxStep(const Image& input, const Image& output)
        : scale_(output.quantization.scale),
          to_(requantization<T>(kEverything, output)) {
        for (std::size_t i = 0; i < exponentials_.size(); ++i) {
            const double below = static_cast<double>(i) * static_cast<double>(input.quantization.scale);
            // Less than any float: the same as nothing.
            exponentials_[i] = below < 100 ? static_cast<float>(exponential(-below)) : 0;
        }
        for (int difference = -255; difference <= 255; ++difference) {
            const T pair[2] = {static_cast<T>(std::max(difference, 0) + kLowest),
                               static_cast<T>(std::max(-difference, 0) + kLowest)};
            softmax(pair, pairs_[size_of(difference + 255)].data(), 2);
        }
    }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        const int channels = output.shape.channels;
        for_each_stretch({&output, &input}, rows, [&](int y, int x, int count) {
            const T* in = pixel<const T>(input, y, x);
            T* out = pixel<T>(output, y, x);
            for (int i = 0; i < count; i += channels) {
                if (channels == 2) {
                    std::copy_n(pairs_[size_of(in[i] - in[i + 1] + 255)].data(), 2, out + i);
                } else {
                    softmax(in + i, out + i, channels);
                }
            }
        });
    }

  private:
    static constexpr int kLowest = std::numeric_limits<T>::min();

    void softmax(const T* in, T* out, int channels) const {
        const int largest = *std::max_element(in, in + channels);
        float sum = 0;
        for (int c = 0; c < channels; ++c) sum += exponentials_[size_of(largest - in[c])];
        for (int c = 0; c < channels; ++c) {
            const float share = exponentials_[size_of(largest - in[c])] / sum;
            // `out` may be `in`, whose other values are read again: what is written belongs to the past only.
            out[c] = stored<T>(share / scale_, to_);
        }
    }

    float scale_;
    Requantization to_;
    std::array<float, 256> exponentials_{};
    std::array<std::array<T, 2>, 511> pairs_{};  // by the difference of two channels
};

// One of 256 results: 1 / (1 + e^-x) in double, rounded to a float; steps = fl(it / scale).
template <typename T>
class SigmoidStep : public Step {
  public:
    SigmoidStep(const Image& input, const Image& output) {
        const Requantization to = requantization<T>(kEverything, output);
        for (int value = kLowest; value <= std::numeric_limits<T>::max(); ++value) {
            const double x =
                (value - input.quantization.zero_point) * static_cast<double>(input.quantization.scale);
            const double above = bounded_exponential(x);
            const auto share = static_cast<float>(above / (above + bounded_exponential(-x)));
            table_[size_of(value - kLowest)] = stored<T>(share / output.quantization.scale, to);
        }
    }

    void run(const Image* const* inputs, const Image& output, Rows rows, std::byte*) const override {
        const Image& input = *inputs[0];
        for_each_stretch({&output, &input}, rows, [&](int y, int x, int count) {
            const T* in = pixel<const T>(input, y, x);
            std::transform(in, in + count, pixel<T>(output, y, x),
                           [&](T value) { return table_[size_of(value - kLowest)]; });
        });
    }

  private:
    static constexpr int kLowest = std::numeric_limits<T>::min();

    // e^min(x, 0); below e^-750 a double is 0.
    static double bounded_exponential(double x) { return exponential(std::clamp(x, -750.0, 0.0)); }

    std::array<T, 256> table_{};
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
std::unique_ptr<Step> make_quantized_add(const Add& add, const Kernels& kernels, const Image& a,
                                         const Image& b, const Image& output) {
    return std::make_unique<AddStep<T>>(add, kernels, a, b, output);
}

template <typename T>
std::unique_ptr<Step> make_quantized_relu(const Relu& relu, const Kernels& kernels, const Image& input,
                                          const Image& output) {
    return std::make_unique<MapStep<T>>(relu.clamp, kernels, input, output);
}

template <typename T>
std::unique_ptr<Step> make_quantized_sigmoid(const Image& input, const Image& output) {
    return std::make_unique<SigmoidStep<T>>(input, output);
}

template <typename T>
std::unique_ptr<Step> make_quantized_softmax(const Image& input, const Image& output) {
    return std::make_unique<SoftmaxStep<T>>(input, output);
}

template <typename T>
std::unique_ptr<Step> make_quantized_copy(const Kernels& kernels, const Image& input, const Image& output) {
    return std::make_unique<MapStep<T>>(kEverything, kernels, input, output);
}

#define EDGEFACE_INSTANTIATE(T)                                                                      \
    template std::unique_ptr<Step> make_quantized_conv<T>(const QuantizedConv&, const Kernels&,      \
                                                          const Image&, const Image&);               \
    template std::unique_ptr<Step> make_quantized_add<T>(const Add&, const Kernels&, const Image&,   \
                                                         const Image&, const Image&);                \
    template std::unique_ptr<Step> make_quantized_relu<T>(const Relu&, const Kernels&, const Image&, \
                                                          const Image&);                             \
    template std::unique_ptr<Step> make_quantized_sigmoid<T>(const Image&, const Image&);            \
    template std::unique_ptr<Step> make_quantized_softmax<T>(const Image&, const Image&);            \
    template std::unique_ptr<Step> make_quantized_copy<T>(const Kernels&, const Image&, const Image&);

EDGEFACE_INSTANTIATE(std::int8_t)
EDGEFACE_INSTANTIATE(std::uint8_t)
#undef EDGEFACE_INSTANTIATE

}  // namespace edgeface::native
