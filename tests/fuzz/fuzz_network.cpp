// Fuzzes the native engine: networks that the bytes spell out, built through Network, planned and run with
// every ISA this CPU has, in one thread and in several, against loops that are slow and obviously right.
//
// int8 and uint8 outputs must be the reference's to the byte. float32 ones must lie within the bound that is
// derived beside the reference, and be the same bytes for every number of threads. The builder takes a
// network or throws std::invalid_argument; arguments that Python would not pass are among those tried.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "backends/native/cpu.h"
#include "backends/native/engine.h"
#include "backends/native/steps.h"
#include "target.h"

namespace {

using namespace edgeface;
using fuzz::expect;
using fuzz::Input;
using native::Axis;
using native::Clamp;
using native::Network;
using native::Shape;
using native::Value;
using native::Window;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kInt = std::numeric_limits<int>::max();

// What one input may cost, so that a fuzzer gets to many: values in memory, multiply-adds of a convolution.
constexpr std::size_t kMaxValues = 1 << 14;
constexpr double kMaxProducts = 1 << 17;

// Preprocessing never stores -128.
template <typename T>
constexpr int lowest() {
    return std::is_same_v<T, std::int8_t> ? -127 : 0;
}

std::size_t index(int value) { return static_cast<std::size_t>(value); }

// --- Networks ----------------------------------------------------------------------------------------

// Weights and pixels come from a seed: the bytes are for what a network is.
class Noise {
  public:
    explicit Noise(Input& in)
        : kind_(in.byte() % 8),
          state_(in.word()) {}

    // Within low..high, its ends often, and in some networks nothing but its ends.
    int whole(int low, int high) {
        const std::uint32_t ends = next();
        if (kind_ == 0 || ends % 16 == 0) return ends & 16 ? low : high;
        return static_cast<int>(low + next() % (std::int64_t{high} - low + 1));
    }

    // Mostly -1 to 1; anything at all in some networks.
    float real() {
        if (kind_ != 1) return static_cast<float>(whole(-1024, 1024)) / 1024;
        const std::uint32_t bits = static_cast<std::uint32_t>(whole(0, 0xFFFF)) << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }

  private:
    // 31 bits; Knuth's linear congruential generator (MMIX).
    std::uint32_t next() {
        state_ = state_ * 6364136223846793005U + 1442695040888963407U;
        return static_cast<std::uint32_t>(state_ >> 33);
    }

    int kind_;
    std::uint64_t state_;
};

class Author {
  public:
    Author(Input& in, DataType type)
        : in_(in),
          type_(type),
          network_(make_shape(), type, make_quantization()) {}

    // Adds operations until the bytes or the budget end; an operation that is refused leaves no trace.
    Network write() {
        for (int i = 0; i < kMaxOperations && !in_.empty(); ++i) {
            try {
                add_operation();
            } catch (const std::invalid_argument&) {
                continue;
            }
            if (in_.byte() % 4 == 0) output(latest());
        }
        if (latest() != Network::kInput) output(latest());
        return network_;
    }

  private:
    static constexpr int kMaxOperations = 16;

    Shape make_shape() {
        const auto size = [this] { return in_.one_of({1, 2, 3, in_.from(1, 24)}); };
        const int height = size();
        const int width = size();
        return {height, width, make_channels()};
    }

    // One in 256 is not one that Python passes.
    int odd(int value) {
        if (in_.byte() != 255) return value;
        return in_.one_of(
            {0, -1, std::min(value, kInt - 1) + 1, std::max(value, -kInt) - 1, 1 << 29, kInt, -kInt});
    }

    int make_channels() { return in_.one_of({1, 2, 3, 4, 8, in_.from(1, 40), in_.from(1, 40), 130}); }

    Quantization make_quantization() {
        if (type_ == DataType::float32) return {};
        if (in_.flag() && made_) return value(pick()).quantization;  // values of one scale share memory
        made_ = true;
        const int low = type_ == DataType::int8 ? lowest<std::int8_t>() : 0;
        const int high = low + (type_ == DataType::int8 ? 254 : 255);
        const float scale =
            in_.byte() % 8 == 0 ? in_.positive() : 0.004F * static_cast<float>(in_.from(1, 40));
        return {scale, odd(in_.one_of({low, 0, high, in_.from(low, high)}))};
    }

    Clamp make_clamp() {
        const float a = in_.any();
        const float b = in_.any();
        const float slope = in_.byte() == 255 ? in_.any() : in_.one_of({0.1F, 0.25F});
        return in_.one_of({Clamp{-kInfinity, kInfinity}, Clamp{0, kInfinity}, Clamp{0, 6},
                           Clamp{-kInfinity, kInfinity, slope}, Clamp{0, kInfinity}, Clamp{a, b}});
    }

    const Value& value(int number) const { return network_.values()[index(number)]; }
    int latest() const { return static_cast<int>(network_.values().size()) - 1; }
    int pick() { return in_.flag() ? latest() : in_.from(0, latest()); }

    // Any value of which `fits` is true, and often none but the one it is asked for.
    template <typename Fits>
    int pick_like(int fallback, Fits fits) {
        std::vector<int> fitting;
        for (int i = 0; i <= latest(); ++i) {
            if (fits(value(i).shape)) fitting.push_back(i);
        }
        return fitting.empty() ? fallback : fitting[in_.byte() % fitting.size()];
    }

    void output(int number) {
        network_.output("output " + std::to_string(network_.outputs().size()), number);
    }

    void add_operation() {
        switch (in_.byte() % 16) {
            case 0:
                network_.relu("relu", odd(pick()), make_clamp(), make_quantization());
                break;
            case 1:
                network_.softmax("softmax", odd(pick()), make_quantization());
                break;
            case 2:
            case 3:
                add_add();
                break;
            case 4:
            case 5:
                add_concat();
                break;
            case 6:
            case 7:
                add_rows();
                break;
            case 8:
                network_.sigmoid("sigmoid", odd(pick()), make_quantization());
                break;
            case 9:
                add_max_pool();
                break;
            case 10:
                add_upsample();
                break;
            default:
                add_conv();
        }
    }

    void add_max_pool() {
        const int data = pick();
        const Shape& shape = value(data).shape;
        Window window = make_window();
        window.dilation_y = odd(1);
        window.dilation_x = odd(1);
        const int height = make_size(shape.height, window.kernel_height, window.stride_y, 1, window.pad_top);
        const int width = make_size(shape.width, window.kernel_width, window.stride_x, 1, window.pad_left);
        if (fits_budget({height, width, shape.channels}))
            network_.max_pool("max_pool", data, window, height, width);
    }

    void add_upsample() {
        const int data = pick();
        const Shape& like = value(pick()).shape;
        const Shape to{odd(like.height), odd(in_.flag() ? like.width : in_.from(1, 40)),
                       value(data).shape.channels};
        if (fits_budget(to)) network_.upsample("upsample", data, to.height, to.width);
    }

    // So is what is refused for having too many values.
    static bool fits_budget(const Shape& shape) {
        if (shape.height < 1 || shape.width < 1) return true;
        constexpr double kRefusedAbove = 1 << 30;
        const double values = 1.0 * shape.height * shape.width * shape.channels;
        return values <= kMaxValues || values > kRefusedAbove;
    }

    void add_add() {
        const int a = pick();
        const int b = pick_like(a, [&](const Shape& shape) { return shape == value(a).shape; });
        network_.add("add", a, odd(b), make_clamp(), make_quantization());
    }

    void add_concat() {
        const Axis axis = in_.one_of({Axis::channels, Axis::channels, Axis::rows});
        const int first = pick();
        const Shape like = value(first).shape;
        std::vector<int> parts{first};
        for (int left = in_.from(0, 3); left > 0; --left) {
            parts.push_back(pick_like(first, [&](const Shape& shape) {
                return axis == Axis::channels ? shape.height == like.height && shape.width == like.width
                                              : shape.width == 1 && shape.channels == like.channels;
            }));
        }
        if (in_.flag()) std::reverse(parts.begin(), parts.end());
        std::size_t total = 0;
        for (const int part : parts) total += value(part).shape.values();
        if (total <= kMaxValues) network_.concat("concat", std::move(parts), axis, make_quantization());
    }

    void add_rows() {
        const int data = pick();
        const Shape& shape = value(data).shape;
        network_.rows("rows", data, odd(in_.one_of({shape.channels, 1, 2, 4, shape.channels * shape.width})));
    }

    Window make_window() {
        // What most networks have most of, and what the engine computes in a way of its own.
        if (in_.byte() % 4 == 0) return {3, 3, 1, 1, 1, 1, 1, 1};
        Window w;
        const auto kernel = [this] { return in_.one_of({1, 1, 3, 3, 3, 5, in_.from(1, 11)}); };
        w.kernel_height = odd(kernel());
        w.kernel_width = odd(in_.flag() ? w.kernel_height : kernel());
        w.stride_y = odd(in_.one_of({1, 1, 2, in_.from(1, 7)}));
        w.stride_x = odd(in_.flag() ? w.stride_y : in_.from(1, 7));
        w.dilation_y = odd(in_.one_of({1, 1, 2, in_.from(1, 40)}));
        w.dilation_x = odd(in_.flag() ? w.dilation_y : in_.from(1, 5));
        w.pad_top = odd(in_.one_of({w.kernel_height / 2, 0, in_.from(0, 12)}));
        w.pad_left = odd(in_.one_of({w.kernel_width / 2, 0, in_.from(0, 12)}));
        return w;
    }

    // Up to as many as there can be: the last window then has one pixel on the image. Sometimes fewer than
    // the padding comes to, so that the image ends behind the last window.
    int make_size(int input, int kernel, int stride, int dilation, int pad) {
        const long long most = stride < 1 ? 1 : (0LL + input - 1 + pad) / stride + 1;
        const long long usual = (2LL * pad + input - (kernel - 1LL) * dilation - 1) / std::max(stride, 1) + 1;
        const auto clamped = [](long long size) { return static_cast<int>(std::clamp(size, 1LL, 64LL)); };
        switch (in_.byte() % 8) {
            case 0:
            case 1:
                return odd(clamped(most));
            case 2:
                return odd(in_.from(1, clamped(most)));
            default:
                return odd(clamped(std::min(usual, most)));
        }
    }

    void add_conv() {
        const int data = pick();
        const Shape& shape = value(data).shape;
        const Window window = make_window();
        Shape to;
        to.height =
            make_size(shape.height, window.kernel_height, window.stride_y, window.dilation_y, window.pad_top);
        to.width =
            make_size(shape.width, window.kernel_width, window.stride_x, window.dilation_x, window.pad_left);
        const int groups = odd(in_.one_of({1, 1, shape.channels, shape.channels % 2 + 1, in_.from(1, 8)}));
        const int times = groups < 1 ? 1 : std::max(1, make_channels() / groups);
        // Depthwise, groups of several, or none.
        to.channels =
            odd(groups == shape.channels && in_.flag() ? groups
                                                       : std::min(times, 130) * std::clamp(groups, 1, 130));
        if (type_ == DataType::float32) {
            native::Conv conv;
            if (prepare(conv, window, groups, shape, to)) network_.conv("conv", data, std::move(conv), to);
        } else {
            native::QuantizedConv conv;
            if (!prepare(conv, window, groups, shape, to)) return;
            conv.weight_scale = make_weight_scales(conv.bias.size());
            network_.conv("conv", data, std::move(conv), {to, make_quantization()});
        }
    }

    std::vector<float> make_weight_scales(std::size_t count) {
        std::vector<float> scales;
        const float unit = in_.byte() == 255 ? in_.any() : 0.0002F;
        Noise noise(in_);
        while (scales.size() < count) scales.push_back(unit * static_cast<float>(noise.whole(1, 256)));
        return scales;
    }

    // False where it would be too much work.
    template <typename Conv>
    bool prepare(Conv& conv, const Window& window, int groups, const Shape& from, const Shape& to) {
        const double taps = std::fabs(static_cast<double>(window.kernel_height) * window.kernel_width);
        const double weights = std::fabs(static_cast<double>(to.channels)) * taps *
                               std::max(1, from.channels / (groups == 0 ? 1 : groups));
        if (weights * std::fabs(static_cast<double>(to.height) * to.width) > kMaxProducts) return false;
        if (weights > kMaxProducts) return false;  // of no pixels
        if (to.height > 0 && to.width > 0 && to.channels > 0 && to.values() > kMaxValues) return false;
        conv.window = window;
        conv.groups = groups;
        conv.clamp = make_clamp();
        Noise noise(in_);
        conv.weight.resize(static_cast<std::size_t>(weights));
        conv.bias.resize(static_cast<std::size_t>(std::max(0, to.channels)));
        for (auto& weight : conv.weight) weight = make_weight(noise, weight);
        for (auto& bias : conv.bias) bias = make_bias(noise, bias);
        return true;
    }

    float make_weight(Noise& noise, float) { return noise.real(); }
    float make_bias(Noise& noise, float) { return noise.real(); }

    // Less their zero points; Python's are within +-255.
    std::int16_t make_weight(Noise& noise, std::int16_t) {
        const int most = type_ == DataType::int8 ? 127 : 255;
        return static_cast<std::int16_t>(in_.empty() || !wide_ ? noise.whole(-most, most)
                                                               : noise.whole(-32768, 32767));
    }
    std::int32_t make_bias(Noise& noise, std::int32_t) {
        return wide_ ? noise.whole(-(1 << 30), 1 << 30) : noise.whole(-5000, 5000);
    }

    Input& in_;
    DataType type_;
    bool made_ = false;
    bool wide_ = in_.byte() % 8 == 0;
    Network network_;
};

// --- The reference: one dense array a value, one loop an index ----------------------------------------

// What a float32 engine may be off: it rounds every product, sum and result once, in any order.
constexpr double kEpsilon = 1.2e-7;  // 2^-23, twice the relative error of one rounding
constexpr double kTiny = 1e-36;      // denormals may be flushed
constexpr double kTooLarge = 1e30;   // beyond it sums may overflow

struct Real {
    std::vector<double> values;
    double error = 0;  // of any value of an engine's; infinite where there is nothing to compare

    double largest() const {
        double most = 0;
        for (const double value : values)
            most = std::isnan(value) ? kInfinity : std::max(most, std::fabs(value));
        return most;
    }
};

using Stored = std::vector<int>;

// Calls visit(tap, pixel) for the taps of one output pixel that lie on the image.
template <typename Visit>
void each_tap(const Window& w, const Shape& input, int y, int x, Visit visit) {
    for (int ky = 0; ky < w.kernel_height; ++ky) {
        for (int kx = 0; kx < w.kernel_width; ++kx) {
            const long long row = 1LL * y * w.stride_y - w.pad_top + 1LL * ky * w.dilation_y;
            const long long column = 1LL * x * w.stride_x - w.pad_left + 1LL * kx * w.dilation_x;
            if (row < 0 || row >= input.height || column < 0 || column >= input.width) continue;
            visit(index(ky * w.kernel_width + kx), static_cast<std::size_t>(row * input.width + column));
        }
    }
}

template <typename T>
std::vector<T> pooled(const native::MaxPool& pool, const std::vector<T>& values, const Shape& from,
                      const Shape& to) {
    std::vector<T> out;
    const auto channels = index(to.channels);
    for (int y = 0; y < to.height; ++y) {
        for (int x = 0; x < to.width; ++x) {
            for (std::size_t c = 0; c < channels; ++c) {
                std::vector<T> window;
                each_tap(pool.window, from, y, x, [&](std::size_t, std::size_t pixel) {
                    window.push_back(values[pixel * channels + c]);
                });
                out.push_back(*std::max_element(window.begin(), window.end()));
            }
        }
    }
    return out;
}

template <typename T>
std::vector<T> upsampled(const std::vector<T>& values, const Shape& from, const Shape& to) {
    std::vector<T> out;
    for (int y = 0; y < to.height; ++y) {
        for (int x = 0; x < to.width; ++x) {
            const long long row = 1LL * y * from.height / to.height;
            const long long column = 1LL * x * from.width / to.width;
            const auto pixel = values.begin() + (row * from.width + column) * to.channels;
            out.insert(out.end(), pixel, pixel + to.channels);
        }
    }
    return out;
}

// bias + sum of products, for every pixel and channel.
template <typename Sum, typename Conv, typename At>
std::vector<Sum> convolve(const Conv& conv, const Shape& from, const Shape& to, At at) {
    std::vector<Sum> sums;
    const auto taps = index(conv.window.taps());
    const auto channels = index(from.channels / conv.groups);
    const auto per_group = index(to.channels / conv.groups);
    for (int y = 0; y < to.height; ++y) {
        for (int x = 0; x < to.width; ++x) {
            for (std::size_t o = 0; o < index(to.channels); ++o) {
                Sum sum = conv.bias[o];
                each_tap(conv.window, from, y, x, [&](std::size_t tap, std::size_t pixel) {
                    for (std::size_t c = 0; c < channels; ++c) {
                        const Sum weight = conv.weight[(o * channels + c) * taps + tap];
                        sum += weight * at(pixel * index(from.channels) + o / per_group * channels + c);
                    }
                });
                sums.push_back(sum);
            }
        }
    }
    return sums;
}

// The place of value i of a part in the joined image.
std::size_t joined_index(Axis axis, const Shape& part, const Shape& whole, int start, std::size_t i) {
    if (axis == Axis::rows) return index(start) * index(part.channels) + i;
    const std::size_t pixel = i / index(part.channels);
    return pixel * index(whole.channels) + index(start) + i % index(part.channels);
}

// Both references: Self computes one operation after another into made().
template <typename Self, typename Made>
class Reference {
  public:
    Reference(const Network& network, Made input)
        : network_(network) {
        values_.push_back(std::move(input));
        for (const native::Operation& operation : network.operations()) {
            operation_ = &operation;
            values_.push_back(std::visit([this](const auto& op) { return static_cast<Self*>(this)->run(op); },
                                         operation.op));
        }
    }

    const Made& value(int number) const { return values_[index(number)]; }

  protected:
    const Made& input(std::size_t i = 0) const { return value(operation_->inputs[i]); }
    std::size_t inputs() const { return operation_->inputs.size(); }
    const Value& from(std::size_t i = 0) const { return network_.values()[index(operation_->inputs[i])]; }
    const Value& to() const { return network_.values()[index(operation_->output)]; }

    // Calls place(part, i, where) for every value of every part of a Concat.
    template <typename Place>
    void join(Axis axis, Place place) const {
        int start = 0;
        for (std::size_t part = 0; part < inputs(); ++part) {
            const Shape& shape = from(part).shape;
            for (std::size_t i = 0; i < shape.values(); ++i)
                place(part, i, joined_index(axis, shape, to().shape, start, i));
            start += axis == Axis::channels ? shape.channels : shape.height;
        }
    }

  private:
    const Network& network_;
    const native::Operation* operation_ = nullptr;
    std::vector<Made> values_;
};

class RealReference : public Reference<RealReference, Real> {
  public:
    using Reference::Reference;

    // n products and a bias: each sum on the way is below the sum of all magnitudes.
    Real run(const native::Conv& conv) {
        const Real& in = input();
        Real out{
            convolve<double>(conv, from().shape, to().shape, [&](std::size_t i) { return in.values[i]; })};
        const std::size_t count = conv.weight.size() / conv.bias.size();
        const double reach = in.largest() + in.error;
        const bool by_winograd = native::wins_by_winograd(conv, from().shape, to().shape);
        double most = 0;
        double weights = 0;
        for (std::size_t o = 0; o < conv.bias.size(); ++o) {
            const float* of = conv.weight.data() + o * count;
            double sum = 0;
            for (std::size_t i = 0; i < count; ++i) sum += std::fabs(of[i]);
            weights = worse(weights, sum);
            const double share = by_winograd ? worse(sum, winograd_sum(of, count)) : sum;
            most = worse(most, std::fabs(static_cast<double>(conv.bias[o])) + share * reach);
        }
        // Winograd's sums are of a ninth of the terms, but round what they are given 19 times more, as
        // tests/reference.py counts.
        const double roundings = static_cast<double>(count) + (by_winograd ? 20 : 2);
        out.error = weights * in.error + roundings * (kEpsilon * most + kTiny);
        return finished(std::move(out), conv.clamp, most);
    }

    Real run(const native::QuantizedConv&) { return {}; }  // of other networks

    Real run(const native::Relu& relu) {
        Real out = input();
        return finished(std::move(out), relu.clamp, input().largest());
    }

    // A share of two, as softmax has it.
    Real run(const native::Sigmoid&) {
        Real out = input();
        for (double& value : out.values) value = 1 / (1 + std::exp(-value));
        const double moved = input().error;
        const double rounded = 16 * kEpsilon + kTiny;
        out.error =
            std::isfinite(moved) ? std::min(1.0, std::exp(std::min(moved, 1.0)) - 1) + rounded : moved;
        return out;
    }

    Real run(const native::MaxPool& pool) {
        return {pooled(pool, input().values, from().shape, to().shape), input().error};
    }

    Real run(const native::Upsample&) {
        return {upsampled(input().values, from().shape, to().shape), input().error};
    }

    Real run(const native::Add& add) {
        Real out = input(0);
        for (std::size_t i = 0; i < out.values.size(); ++i) out.values[i] += input(1).values[i];
        const double most = input(0).largest() + input(1).largest();
        out.error += input(1).error + kEpsilon * most + kTiny;
        return finished(std::move(out), add.clamp, most);
    }

    Real run(const native::Concat& concat) {
        Real out{std::vector<double>(to().shape.values())};
        join(concat.axis, [&](std::size_t part, std::size_t i, std::size_t where) {
            out.values[where] = input(part).values[i];
        });
        for (std::size_t part = 0; part < inputs(); ++part) out.error = worse(out.error, input(part).error);
        return out;
    }

    Real run(const native::View&) { return input(); }

    // A share moves by less than exp(2 d) - 1 of itself when every exponent moves by d, and is at most 1.
    Real run(const native::Softmax&) {
        Real out = input();
        const std::size_t channels = index(to().shape.channels);
        for (auto pixel = out.values.begin(); pixel != out.values.end(); pixel += to().shape.channels) {
            const auto end = pixel + to().shape.channels;
            const double largest = *std::max_element(pixel, end);
            double sum = 0;
            for (auto value = pixel; value != end; ++value) sum += * value = std::exp(*value - largest);
            for (auto value = pixel; value != end; ++value) *value /= sum;
        }
        const double moved = input().error + 2 * kEpsilon * input().largest();
        const double rounded = kEpsilon * (static_cast<double>(channels) + 8) + kTiny;
        out.error =
            std::isfinite(moved) ? std::min(1.0, std::exp(std::min(2 * moved, 1.0)) - 1) + rounded : moved;
        return out;
    }

  private:
    static double worse(double a, double b) {
        return std::isnan(a) || std::isnan(b) ? kInfinity : std::max(a, b);
    }

    // A tap's share of one of Winograd's products, one way (winograd.h): G.
    static double winograd_weight(int product, int tap) {
        if (product == kInfinite) return tap == 2;
        double share = std::pow(kPoints[product], tap);
        for (int i = 0; i < kInfinite; ++i) share /= i == product ? 1 : kPoints[product] - kPoints[i];
        return share;
    }

    // What inputs of up to 1 come to, of B: coefficients of the product of x - p over the other points.
    static double winograd_gain(int product) {
        std::vector<double> terms{1};
        for (int i = 0; i < kInfinite; ++i) {
            if (i == product) continue;
            terms.push_back(0);
            for (std::size_t k = terms.size() - 1; k > 0; --k) terms[k] -= kPoints[i] * terms[k - 1];
        }
        double sum = 0;
        for (const double term : terms) sum += std::fabs(term);
        return sum;
    }

    // Of A.
    static double winograd_share(int product, int output) {
        if (product == kInfinite) return output == native::winograd::kOutputs - 1;
        return std::pow(std::fabs(kPoints[product]), output);
    }

    // What all products come to at most, in any output of a patch, for inputs of up to 1.
    static double winograd_sum(const float* weights, std::size_t count) {
        constexpr int kOutputs = native::winograd::kOutputs;
        double outputs[kOutputs * kOutputs] = {};
        for (int product = 0; product < native::winograd::kProducts; ++product) {
            const int row = product / native::winograd::kFactors;
            const int column = product % native::winograd::kFactors;
            double factors = 0;
            for (std::size_t i = 0; i < count; i += 9) {
                double factor = 0;
                for (int tap = 0; tap < 9; ++tap) {
                    factor += winograd_weight(row, tap / 3) * winograd_weight(column, tap % 3) *
                              static_cast<double>(weights[i + index(tap)]);
                }
                if (!(std::fabs(factor) < std::numeric_limits<float>::max())) return kInfinity;
                factors += std::fabs(factor);
            }
            factors *= winograd_gain(row) * winograd_gain(column);
            for (int i = 0; i < kOutputs * kOutputs; ++i)
                outputs[i] +=
                    factors * winograd_share(row, i / kOutputs) * winograd_share(column, i % kOutputs);
        }
        return *std::max_element(std::begin(outputs), std::end(outputs));
    }

    static constexpr double kPoints[] = {0, native::winograd::kA, -native::winograd::kA, native::winograd::kB,
                                         -native::winograd::kB};
    static constexpr int kInfinite = native::winograd::kFactors - 1;  // the product at infinity

    static Real finished(Real out, const Clamp& clamp, double most) {
        const double slope = clamp.slope;
        for (double& value : out.values)
            value = std::min<double>(std::max<double>({value, value * slope, clamp.low}), clamp.high);
        if (slope != 1) out.error += kEpsilon * most + kTiny;
        // `most` on the way, the largest after a clamp to something huge.
        if (!(out.error + most + out.largest() < kTooLarge)) out.error = kInfinity;
        return out;
    }
};

// As network.h has it for convolutions; in the others (x - z) * fl(scale / output scale), rounded the same
// way.
template <typename T>
class StoredReference : public Reference<StoredReference<T>, Stored> {
  public:
    using Reference<StoredReference<T>, Stored>::Reference;
    static constexpr int kLow = lowest<T>();
    static constexpr int kHigh = std::numeric_limits<T>::max();

    Stored run(const native::Conv&) { return {}; }  // of other networks

    Stored run(const native::QuantizedConv& conv) {
        const int zero_point = this->from().quantization.zero_point;
        const Stored& in = this->input();
        const std::vector<long long> sums =
            convolve<long long>(conv, this->from().shape, this->to().shape,
                                [&](std::size_t i) { return static_cast<long long>(in[i]) - zero_point; });
        Stored out;
        for (std::size_t i = 0; i < sums.size(); ++i) {
            expect(std::llabs(sums[i]) <= kInt, "sums stay within 32 bits");
            const float multiplier = this->from().quantization.scale *
                                     conv.weight_scale[i % conv.weight_scale.size()] /
                                     this->to().quantization.scale;
            out.push_back(stored(static_cast<float>(sums[i]) * multiplier, conv.clamp));
        }
        return out;
    }

    Stored run(const native::Relu& relu) {
        Stored out;
        for (const int value : this->input()) out.push_back(stored(steps(value, 0), relu.clamp));
        return out;
    }

    Stored run(const native::Sigmoid&) {
        Stored out;
        const Quantization& from = this->from().quantization;
        for (const int value : this->input()) {
            const double x = (value - from.zero_point) * static_cast<double>(from.scale);
            const double above = std::exp(std::min(x, 0.0));
            const auto share = static_cast<float>(above / (above + std::exp(std::min(-x, 0.0))));
            out.push_back(stored(share / this->to().quantization.scale, {-kInfinity, kInfinity}));
        }
        return out;
    }

    Stored run(const native::MaxPool& pool) {
        return pooled(pool, this->input(), this->from().shape, this->to().shape);
    }

    Stored run(const native::Upsample&) {
        return upsampled(this->input(), this->from().shape, this->to().shape);
    }

    Stored run(const native::Add& add) {
        Stored out;
        for (std::size_t i = 0; i < this->input(0).size(); ++i)
            out.push_back(stored(steps(this->input(0)[i], 0) + steps(this->input(1)[i], 1), add.clamp));
        return out;
    }

    Stored run(const native::Concat& concat) {
        Stored out(this->to().shape.values());
        this->join(concat.axis, [&](std::size_t part, std::size_t i, std::size_t where) {
            const int value = this->input(part)[i];
            const bool same = this->from(part).quantization == this->to().quantization;
            out[where] = same ? value : stored(steps(value, part), {-kInfinity, kInfinity});
        });
        return out;
    }

    Stored run(const native::View&) { return this->input(); }

    // exp() of the difference to the largest in float, their sum in order.
    Stored run(const native::Softmax&) {
        Stored out;
        const int channels = this->to().shape.channels;
        const double scale = this->from().quantization.scale;
        for (auto pixel = this->input().begin(); pixel != this->input().end(); pixel += channels) {
            const int largest = *std::max_element(pixel, pixel + channels);
            const auto power = [&](int value) {
                const double below = (largest - value) * scale;
                return below < 100 ? static_cast<float>(std::exp(-below)) : 0.0F;
            };
            float sum = 0;
            for (int c = 0; c < channels; ++c) sum += power(pixel[c]);
            for (int c = 0; c < channels; ++c)
                out.push_back(
                    stored(power(pixel[c]) / sum / this->to().quantization.scale, {-kInfinity, kInfinity}));
        }
        return out;
    }

  private:
    float steps(int value, std::size_t part) const {
        const Quantization& from = this->from(part).quantization;
        return static_cast<float>(value - from.zero_point) * (from.scale / this->to().quantization.scale);
    }

    int stored(float steps, const Clamp& clamp) const {
        const Quantization& to = this->to().quantization;
        const auto within = [&](float value) {
            return std::nearbyint(std::clamp(value, static_cast<float>(kLow - to.zero_point),
                                             static_cast<float>(kHigh - to.zero_point)));
        };
        const float low = within(clamp.low / to.scale);
        const float high = within(clamp.high / to.scale);
        steps = std::max(steps, steps * clamp.slope);
        return static_cast<int>(std::nearbyint(std::clamp(steps, low, high))) + to.zero_point;
    }
};

// --- Runs --------------------------------------------------------------------------------------------

template <typename T>
std::vector<T> make_image(Input& in, const Shape& shape) {
    Noise noise(in);
    std::vector<T> image(shape.values());
    for (T& value : image) {
        if constexpr (std::is_same_v<T, float>)
            value = noise.real();
        else
            value = static_cast<T>(noise.whole(lowest<T>(), std::numeric_limits<T>::max()));
    }
    return image;
}

template <typename T>
using Outputs = std::vector<std::vector<T>>;

template <typename T>
void expect_same(const std::vector<T>& wants, const std::vector<T>& found, const char* what) {
    expect(std::memcmp(wants.data(), found.data(), wants.size() * sizeof(T)) == 0, what);
}

template <typename T>
void fill(const InputView& input, const std::vector<T>& image) {
    auto value = image.begin();
    for (int y = 0; y < input.size.height; ++y) {
        for (int x = 0; x < input.size.width; ++x) {
            T* pixel = static_cast<T*>(input.data) + y * input.row_stride + x * input.pixel_stride;
            for (int c = 0; c < input.channels; ++c) pixel[c * input.channel_stride] = *value++;
        }
    }
}

// What an engine depends on besides the network.
struct Machine {
    int threads = 1;
    native::CacheSizes caches;  // operations run together where values are large for them
};

// Twice with the same image: the second run finds what the first has left. Of several threads, a few times
// more: which of them does a part is another matter every time.
template <typename T>
Outputs<T> run(const Network& network, const std::vector<T>& image, const char* isa, const Machine& machine) {
    native::Engine engine(network, machine.threads, isa, machine.caches);
    Outputs<T> first;
    const int times = machine.threads == 1 ? 2 : 4;
    for (int time = 0; time < times; ++time) {
        fill(engine.input(), image);
        engine.run();
        Outputs<T> found;
        for (const auto& [name, number] : network.outputs()) {
            const OutputView view = engine.output(name);
            const T* data = static_cast<const T*>(view.data);
            found.emplace_back(data, data + view.values());
        }
        if (time == 0) first = found;
        for (std::size_t i = 0; i < found.size(); ++i)
            expect_same(first[i], found[i], "every run gives the same");
    }
    return first;
}

// Not so for values that may be NaN: on ARM a vector's minimum and maximum treat it another way than those of
// a single value, and which of them a value meets depends on the number of threads.
bool is_defined(const Real& wants) { return !std::isinf(wants.error); }
bool is_defined(const Stored&) { return true; }

void compare(const Real& wants, const std::vector<float>& found) {
    expect(wants.values.size() == found.size(), "an output has as many values as the network says");
    if (!is_defined(wants)) return;
    for (std::size_t i = 0; i < found.size(); ++i)
        expect(std::fabs(found[i] - wants.values[i]) <= wants.error, "a float32 value lies within its bound");
}

template <typename T>
void compare(const Stored& wants, const std::vector<T>& found) {
    expect(wants.size() == found.size(), "an output has as many values as the network says");
    for (std::size_t i = 0; i < found.size(); ++i)
        expect(wants[i] == found[i], "a quantised value is the reference's");
}

template <typename T, typename Reference>
void check(const Network& network, const std::vector<T>& image, const Reference& reference, Machine machine) {
    for (const native::Kernels* kernels : native::available_kernels()) {
        const Outputs<T> found = run(network, image, kernels->isa, {1, machine.caches});
        const Outputs<T> shared = machine.threads > 1 ? run(network, image, kernels->isa, machine) : found;
        for (std::size_t i = 0; i < found.size(); ++i) {
            const auto& wants = reference.value(network.outputs()[i].second);
            compare(wants, found[i]);
            if (is_defined(wants)) expect_same(found[i], shared[i], "several threads give the same");
        }
    }
}

// None where the input's own shape or scale is refused.
std::optional<Network> make_network(Input& in, DataType type) {
    try {
        return Author(in, type).write();
    } catch (const std::invalid_argument&) {
        return std::nullopt;
    }
}

Machine make_machine(Input& in) {
    Machine machine{1, native::cache_sizes()};
    if (in.byte() % 8 == 0) machine.threads = in.from(2, 5);
    // Networks as small as these fit into any real one.
    if (in.flag()) machine.caches.level2 = in.one_of<std::size_t>({0, 256, 4096});
    return machine;
}

template <typename T>
void fuzz_network(Input& in, DataType type) {
    const Machine machine = make_machine(in);
    const std::optional<Network> network = make_network(in, type);
    if (!network) return;
    const std::vector<T> image = make_image<T>(in, network->values().front().shape);
    if constexpr (std::is_same_v<T, float>) {
        Real input{std::vector<double>(image.begin(), image.end())};
        if (!(input.largest() < kTooLarge)) input.error = kInfinity;
        check(*network, image, RealReference(*network, std::move(input)), machine);
    } else {
        check(*network, image, StoredReference<T>(*network, Stored(image.begin(), image.end())), machine);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input in(data, size);
    switch (in.byte() % 3) {
        case 0:
            fuzz_network<float>(in, DataType::float32);
            break;
        case 1:
            fuzz_network<std::int8_t>(in, DataType::int8);
            break;
        default:
            fuzz_network<std::uint8_t>(in, DataType::uint8);
    }
    return 0;
}
