#include "network.h"

#include <stdexcept>
#include <utility>

namespace edgeface::native {
namespace {

void require(bool condition, const std::string& name, const char* what) {
    if (!condition) throw std::invalid_argument("native engine: '" + name + "': " + what);
}

// The last pixel a window may start at must leave at least one row of it on the image.
bool fits(int output, int stride, int pad, int input) {
    return output >= 1 && (output - 1) * stride - pad < input;
}

}  // namespace

Network::Network(Shape input) {
    require(input.height > 0 && input.width > 0 && input.channels > 0, "input", "the shape is not positive");
    shapes_.push_back(input);
}

const Shape& Network::shape(int value) const {
    require(value >= 0 && static_cast<std::size_t>(value) < shapes_.size(), std::to_string(value),
            "no such value");
    return shapes_[static_cast<std::size_t>(value)];
}

int Network::append(Operation operation, Shape output) {
    operation.output = static_cast<int>(shapes_.size());
    shapes_.push_back(output);
    operations_.push_back(std::move(operation));
    return operations_.back().output;
}

int Network::conv(const std::string& name, int data, Conv conv, Shape output) {
    const Shape& input = shape(data);
    const Window& window = conv.window;
    require(window.kernel_height > 0 && window.kernel_width > 0 && window.stride_y > 0 &&
                window.stride_x > 0 && window.dilation_y > 0 && window.dilation_x > 0 &&
                window.pad_top >= 0 && window.pad_left >= 0,
            name, "bad window");
    require(window.kernel_height <= kMaxTaps && window.kernel_width <= kMaxTaps && window.taps() <= kMaxTaps,
            name, "the kernel is larger than 11 x 11");
    require(conv.groups > 0 && input.channels % conv.groups == 0 && output.channels % conv.groups == 0, name,
            "the groups do not divide the channels");
    require(fits(output.height, window.stride_y, window.pad_top, input.height) &&
                fits(output.width, window.stride_x, window.pad_left, input.width),
            name, "the output reaches past the input");
    const std::size_t expected = static_cast<std::size_t>(output.channels) *
                                 static_cast<std::size_t>(input.channels / conv.groups) *
                                 static_cast<std::size_t>(window.taps());
    require(conv.weight.size() == expected, name, "the weight has another size");
    require(conv.bias.size() == static_cast<std::size_t>(output.channels), name, "the bias has another size");
    return append({std::move(conv), name, {data}}, output);
}

int Network::relu(const std::string& name, int data) {
    return append({Relu{}, name, {data}}, Shape(shape(data)));
}

int Network::add(const std::string& name, int a, int b, Clamp clamp) {
    require(shape(a) == shape(b), name, "the shapes differ");
    return append({Add{clamp}, name, {a, b}}, Shape(shape(a)));
}

int Network::concat(const std::string& name, std::vector<int> values, Axis axis) {
    require(!values.empty(), name, "nothing to join");
    Shape joined = shape(values.front());
    int& length = axis == Axis::channels ? joined.channels : joined.height;
    length = 0;
    for (const int value : values) {
        Shape part = shape(value);
        int& part_length = axis == Axis::channels ? part.channels : part.height;
        length += part_length;
        part_length = length;
        require(part == joined && (axis == Axis::channels || part.width == 1), name, "the shapes differ");
    }
    return append({Concat{axis}, name, std::move(values)}, joined);
}

int Network::rows(const std::string& name, int data, int columns) {
    const std::size_t values = shape(data).values();
    require(columns > 0 && values % static_cast<std::size_t>(columns) == 0, name,
            "the columns do not divide it");
    return append({View{}, name, {data}},
                  {static_cast<int>(values / static_cast<std::size_t>(columns)), 1, columns});
}

int Network::softmax(const std::string& name, int data) {
    return append({Softmax{}, name, {data}}, Shape(shape(data)));
}

void Network::output(const std::string& name, int value) {
    shape(value);
    require(value != kInput, name, "the input cannot be an output");
    outputs_.emplace_back(name, value);
}

}  // namespace edgeface::native
