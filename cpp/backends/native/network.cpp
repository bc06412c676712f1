#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <utility>

namespace edgeface::native {
namespace {

void require(bool condition, const std::string& name, const char* what) {
    if (!condition) throw std::invalid_argument("native engine: '" + name + "': " + what);
}

// Steps count values and positions in int, beyond the image's edges too: with these both stay in range.
constexpr int kMaxValues = 1 << 30;  // as graph.MAX_ELEMENTS
constexpr std::int64_t kMaxReach = 1 << 29;

void check_shape(const std::string& name, const Shape& shape) {
    require(shape.height > 0 && shape.width > 0 && shape.channels > 0, name, "the shape is not positive");
    require(shape.height <= kMaxValues / shape.width &&
                shape.channels <= kMaxValues / (shape.height * shape.width),
            name, "it has more than 2^30 values");
}

// Not so for NaN.
void check_clamp(const std::string& name, const Clamp& clamp) {
    require(clamp.low <= clamp.high, name, "the activation's bounds are not in order");
    require(clamp.slope > 0 && clamp.slope <= 1, name, "the activation's slope is not within 0 and 1");
}

bool reaches_too_far(int kernel, int stride, int dilation, int pad) {
    return std::int64_t{kernel} * dilation > kMaxReach || stride > kMaxReach || pad > kMaxReach;
}

// The last pixel a window may start at must leave at least one row of it on the image.
bool fits(std::int64_t output, int stride, int pad, int input) {
    return output >= 1 && (output - 1) * stride - pad < input;
}

// Rows are kept in memory together with what windows read beyond their ends.
bool beyond_is_small(const Window& window, const Shape& input, const Shape& output) {
    constexpr int kAlways = 64;
    return reach_beyond(window, input, output) <= std::max(input.width, kAlways);
}

void check_window(const std::string& name, const Window& window, const Shape& input, const Shape& output) {
    require(window.kernel_height > 0 && window.kernel_width > 0 && window.stride_y > 0 &&
                window.stride_x > 0 && window.dilation_y > 0 && window.dilation_x > 0 &&
                window.pad_top >= 0 && window.pad_left >= 0,
            name, "bad window");
    require(window.kernel_height <= kMaxTaps && window.kernel_width <= kMaxTaps && window.taps() <= kMaxTaps,
            name, "the kernel is larger than 11 x 11");
    require(!reaches_too_far(window.kernel_height, window.stride_y, window.dilation_y, window.pad_top) &&
                !reaches_too_far(window.kernel_width, window.stride_x, window.dilation_x, window.pad_left),
            name, "the window reaches too far");
    require(fits(output.height, window.stride_y, window.pad_top, input.height) &&
                fits(output.width, window.stride_x, window.pad_left, input.width),
            name, "the output reaches past the input");
    require(beyond_is_small(window, input, output), name, "the window reaches too far beyond the image");
}

template <typename Conv>
void check_conv(const std::string& name, const Conv& conv, const Shape& input, const Shape& output) {
    check_shape(name, output);
    check_window(name, conv.window, input, output);
    check_clamp(name, conv.clamp);
    require(conv.groups > 0 && input.channels % conv.groups == 0 && output.channels % conv.groups == 0, name,
            "the groups do not divide the channels");
    const std::size_t expected = static_cast<std::size_t>(output.channels) *
                                 static_cast<std::size_t>(input.channels / conv.groups) *
                                 static_cast<std::size_t>(conv.window.taps());
    require(conv.weight.size() == expected, name, "the weight has another size");
    require(conv.bias.size() == static_cast<std::size_t>(output.channels), name, "the bias has another size");
}

bool is_scale(float scale) { return std::isfinite(scale) && scale > 0; }

bool fits_type(const Quantization& quantization, DataType type) {
    const int low = type == DataType::uint8 ? 0 : -127;
    const int high = type == DataType::uint8 ? 255 : 127;
    if (type == DataType::float32) return quantization == Quantization{};
    return is_scale(quantization.scale) && quantization.zero_point >= low && quantization.zero_point <= high;
}

// Any difference of two stored values is a number in the steps of another scale, too: 0 times infinity is
// none.
bool reaches(float from, float to) {
    constexpr float kLargestDifference = 255;
    return std::isfinite(from / to * kLargestDifference);
}

// The sum of one output channel stays within 32 bits whatever the input, zero point included.
bool stays_in_range(const QuantizedConv& conv) {
    constexpr long long kLargestInput = 255;
    const std::size_t weights = conv.weight.size() / conv.bias.size();
    for (std::size_t channel = 0; channel < conv.bias.size(); ++channel) {
        long long largest = std::llabs(conv.bias[channel]);
        for (std::size_t i = 0; i < weights; ++i) {
            largest += 2 * kLargestInput * std::abs(conv.weight[channel * weights + i]);
        }
        if (largest > std::numeric_limits<std::int32_t>::max()) return false;
    }
    return true;
}

const Clamp* clamp_of(const Operation& operation) {
    if (const auto* conv = std::get_if<QuantizedConv>(&operation.op)) return &conv->clamp;
    if (const auto* relu = std::get_if<Relu>(&operation.op)) return &relu->clamp;
    if (const auto* add = std::get_if<Add>(&operation.op)) return &add->clamp;
    return nullptr;
}

}  // namespace

std::int64_t reach_beyond(const Window& window, const Shape& input, const Shape& output) {
    const std::int64_t start = std::int64_t{output.width - 1} * window.stride_x - window.pad_left;
    const std::int64_t last = start + std::int64_t{window.kernel_width - 1} * window.dilation_x;
    return std::max({std::int64_t{0}, std::int64_t{window.pad_left}, last - (input.width - 1)});
}

const Window* window_of(const Operation& operation) {
    if (const auto* conv = std::get_if<Conv>(&operation.op)) return &conv->window;
    if (const auto* conv = std::get_if<QuantizedConv>(&operation.op)) return &conv->window;
    if (const auto* pool = std::get_if<MaxPool>(&operation.op)) return &pool->window;
    return nullptr;
}

bool reads_margins(const Operation& operation) {
    return window_of(operation) != nullptr && !std::holds_alternative<MaxPool>(operation.op);
}

Network::Network(Shape input, DataType type, Quantization quantization)
    : type_(type) {
    check_shape("input", input);
    require(fits_type(quantization, type), "input", "bad scale or zero point");
    values_.push_back({input, quantization});
}

const Value& Network::value(int number) const {
    require(number >= 0 && static_cast<std::size_t>(number) < values_.size(), std::to_string(number),
            "no such value");
    return values_[static_cast<std::size_t>(number)];
}

int Network::append(Operation operation, const Value& output) {
    check_shape(operation.name, output.shape);
    require(fits_type(output.quantization, type_), operation.name, "bad scale or zero point");
    const bool rescales = !std::holds_alternative<QuantizedConv>(operation.op) &&
                          !std::holds_alternative<Softmax>(operation.op) &&
                          !std::holds_alternative<Sigmoid>(operation.op);
    for (const int input : operation.inputs) {
        require(!rescales || reaches(value(input).quantization.scale, output.quantization.scale),
                operation.name, "the scales are too far apart");
    }
    operation.output = static_cast<int>(values_.size());
    values_.push_back(output);
    operations_.push_back(std::move(operation));
    return operations_.back().output;
}

int Network::conv(const std::string& name, int data, Conv conv, Shape output) {
    require(type_ == DataType::float32, name, "a float32 convolution in a quantised network");
    check_conv(name, conv, value(data).shape, output);
    return append({std::move(conv), name, {data}}, {output, {}});
}

int Network::conv(const std::string& name, int data, QuantizedConv conv, const Value& output) {
    require(type_ != DataType::float32, name, "a quantised convolution in a float32 network");
    check_conv(name, conv, value(data).shape, output.shape);
    require(conv.weight_scale.size() == conv.bias.size(), name, "a scale a channel is needed");
    const float input_scale = value(data).quantization.scale;
    for (const float scale : conv.weight_scale) {
        require(is_scale(scale), name, "a weight's scale is not positive");
        require(std::isfinite(input_scale * scale / output.quantization.scale), name,
                "the scales are too far apart");
    }
    require(stays_in_range(conv), name, "its sums could overflow 32 bits");
    return append({std::move(conv), name, {data}}, output);
}

int Network::relu(const std::string& name, int data, Clamp clamp, Quantization output) {
    check_clamp(name, clamp);
    return append({Relu{clamp}, name, {data}}, {value(data).shape, output});
}

int Network::sigmoid(const std::string& name, int data, Quantization output) {
    return append({Sigmoid{}, name, {data}}, {value(data).shape, output});
}

int Network::max_pool(const std::string& name, int data, const Window& window, int height, int width) {
    const Value from = value(data);
    const Shape to{height, width, from.shape.channels};
    check_shape(name, to);
    check_window(name, window, from.shape, to);
    require(window.dilation_y == 1 && window.dilation_x == 1, name, "a dilated pool");
    require(window.pad_top < window.kernel_height && window.pad_left < window.kernel_width, name,
            "the first window is empty");
    return append({MaxPool{window}, name, {data}}, {to, from.quantization});
}

int Network::upsample(const std::string& name, int data, int height, int width) {
    const Value from = value(data);
    return append({Upsample{}, name, {data}}, {{height, width, from.shape.channels}, from.quantization});
}

int Network::add(const std::string& name, int a, int b, Clamp clamp, Quantization output) {
    require(value(a).shape == value(b).shape, name, "the shapes differ");
    check_clamp(name, clamp);
    return append({Add{clamp}, name, {a, b}}, {value(a).shape, output});
}

int Network::concat(const std::string& name, std::vector<int> values, Axis axis, Quantization output) {
    require(!values.empty(), name, "nothing to join");
    Shape joined = value(values.front()).shape;
    int& length = axis == Axis::channels ? joined.channels : joined.height;
    length = 0;
    for (const int number : values) {
        Shape part = value(number).shape;
        int& part_length = axis == Axis::channels ? part.channels : part.height;
        require(length <= kMaxValues - part_length, name, "it has more than 2^30 values");
        length += part_length;
        part_length = length;
        require(part == joined && (axis == Axis::channels || part.width == 1), name, "the shapes differ");
    }
    return append({Concat{axis}, name, std::move(values)}, {joined, output});
}

int Network::rows(const std::string& name, int data, int columns) {
    const std::size_t count = value(data).shape.values();
    require(columns > 0 && count % static_cast<std::size_t>(columns) == 0, name,
            "the columns do not divide it");
    const Shape shape{static_cast<int>(count / static_cast<std::size_t>(columns)), 1, columns};
    return append({View{}, name, {data}}, {shape, value(data).quantization});
}

int Network::softmax(const std::string& name, int data, Quantization output) {
    return append({Softmax{}, name, {data}}, {value(data).shape, output});
}

void Network::output(const std::string& name, int number) {
    value(number);
    require(number != kInput, name, "the input cannot be an output");
    outputs_.emplace_back(name, number);
}

void Network::copy_output(std::size_t number) {
    auto& [name, output] = outputs_[number];
    output = concat(name, {output}, Axis::channels, value(output).quantization);
}

bool Network::may_move(int number) const {
    const auto is_it = [&](const auto& output) { return output.second == number; };
    if (std::any_of(outputs_.begin(), outputs_.end(), is_it)) return false;
    return std::all_of(operations_.begin(), operations_.end(), [&](const Operation& operation) {
        const std::vector<int>& inputs = operation.inputs;
        return std::find(inputs.begin(), inputs.end(), number) == inputs.end() ||
               std::holds_alternative<QuantizedConv>(operation.op) ||
               std::holds_alternative<Add>(operation.op);
    });
}

void Network::centre() {
    constexpr int kHalf = 64;
    for (const Operation& operation : operations_) {
        const Clamp* clamp = clamp_of(operation);
        Value& value = values_[static_cast<std::size_t>(operation.output)];
        const bool is_relu = clamp != nullptr && clamp->low >= 0 && value.quantization.zero_point == 0;
        if (!is_relu || !may_move(operation.output)) continue;
        value.quantization.zero_point = -kHalf;
        value.reach = kHalf;
    }
}

}  // namespace edgeface::native
