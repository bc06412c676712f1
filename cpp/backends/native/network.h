// What the engine runs: a network of images, before anything is decided about memory.
//
// All values have one type. Quantised ones have a scale and zero point each; real = (stored - zero_point) *
// scale. Every value is an image of height x width pixels with its channels next to each other (NHWC). A list
// of rows, such as a head with one row a prior, is an image one pixel wide; so taking a convolution's output
// as rows moves no data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "../../types.h"

namespace edgeface::native {

struct Shape {
    int height = 0;
    int width = 0;
    int channels = 0;

    std::size_t pixels() const { return static_cast<std::size_t>(height) * static_cast<std::size_t>(width); }
    std::size_t values() const { return pixels() * static_cast<std::size_t>(channels); }
    friend bool operator==(const Shape& a, const Shape& b) {
        return a.height == b.height && a.width == b.width && a.channels == b.channels;
    }
};

// An activation: x where it is positive and slope * x elsewhere, then bounds, all in real numbers. relu is
// [0, inf); leaky relu has a slope and no bounds.
struct Clamp {
    float low = 0;
    float high = 0;
    float slope = 1;  // above 0, at most 1
};

struct Window {
    int kernel_height = 1;
    int kernel_width = 1;
    int stride_y = 1;
    int stride_x = 1;
    int dilation_y = 1;
    int dilation_x = 1;
    int pad_top = 0;
    int pad_left = 0;

    int taps() const { return kernel_height * kernel_width; }
};

// Pixels that windows read beyond the ends of a row, at the end where they are more.
std::int64_t reach_beyond(const Window& window, const Shape& input, const Shape& output);

// An 11 x 11 kernel, the largest that published backbones have; the steps keep their pointers on the stack.
constexpr int kMaxTaps = 121;

// weight[out][in / groups][kernel_height][kernel_width], bias[out].
struct Conv {
    Window window;
    int groups = 1;
    Clamp clamp;
    std::vector<float> weight;
    std::vector<float> bias;
};

// The same for quantised values, in integers up to the last step. With the input's zero point z, per output
// channel:
//   sum = bias + sum over taps and channels of (input - z) * weight          exact, in 32 bits
//   steps = float(sum) * multiplier, multiplier = fl(fl(input scale * weight_scale) / output scale)
//   output = round(clamp(max(steps, fl(steps * slope)))) + output zero point, to the nearest, halves to even
// Every step is one IEEE operation in single precision or an integer one: the same on every CPU.
struct QuantizedConv {
    Window window;
    int groups = 1;
    Clamp clamp;
    std::vector<std::int16_t> weight;  // less its zero point
    std::vector<std::int32_t> bias;    // in units of input scale * weight_scale
    std::vector<float> weight_scale;   // by output channel
};

// The activation alone.
struct Relu {
    Clamp clamp;
};

struct Sigmoid {};

// The largest value that each window finds on the image, channel by channel.
struct MaxPool {
    Window window;
};

// Another height and width: row y is row floor(y * input height / height), columns alike.
struct Upsample {};

struct Add {
    Clamp clamp;
};

enum class Axis { channels, rows };

struct Concat {
    Axis axis = Axis::channels;
};

// The same memory under another shape.
struct View {};

struct Softmax {};  // over the channels

struct Operation {
    std::variant<Conv, QuantizedConv, Relu, Sigmoid, MaxPool, Upsample, Add, Concat, View, Softmax> op;
    std::string name;
    std::vector<int> inputs;
    int output = 0;
};

// Of a convolution or of max pooling; null for other operations.
const Window* window_of(const Operation& operation);

// Whether a window's taps may lie outside the image, in margins of zeros.
bool reads_margins(const Operation& operation);

// Stored values are at least minus their reach, and less than it.
constexpr int kWholeReach = 256;

struct Value {
    Shape shape;
    Quantization quantization;
    int reach = kWholeReach;
};

// Built front to back; every method returns the number of the value it makes and checks its arguments
// (std::invalid_argument), so that what is planned later needs no checks.
class Network {
  public:
    Network(Shape input, DataType type, Quantization quantization);

    int conv(const std::string& name, int data, Conv conv, Shape output);
    int conv(const std::string& name, int data, QuantizedConv conv, const Value& output);
    int relu(const std::string& name, int data, Clamp clamp, Quantization output);
    int sigmoid(const std::string& name, int data, Quantization output);
    // Both keep the scale.
    int max_pool(const std::string& name, int data, const Window& window, int height, int width);
    int upsample(const std::string& name, int data, int height, int width);
    int add(const std::string& name, int a, int b, Clamp clamp, Quantization output);
    int concat(const std::string& name, std::vector<int> values, Axis axis, Quantization output);
    int rows(const std::string& name, int data, int columns);
    int softmax(const std::string& name, int data, Quantization output);
    void output(const std::string& name, int value);
    // An output of the same name and values, which nothing else reads.
    void copy_output(std::size_t number);
    // int8 values of relus, from 0 to 127, become values from -64 to 63 where nothing but convolutions and
    // sums reads them, which heed a zero point: twice as many products of values half as large fit in 16
    // bits.
    void centre();

    static constexpr int kInput = 0;
    DataType type() const { return type_; }
    const std::vector<Value>& values() const { return values_; }
    const std::vector<Operation>& operations() const { return operations_; }
    const std::vector<std::pair<std::string, int>>& outputs() const { return outputs_; }

  private:
    const Value& value(int number) const;
    int append(Operation operation, const Value& output);
    bool may_move(int number) const;

    DataType type_;
    std::vector<Value> values_;
    std::vector<Operation> operations_;
    std::vector<std::pair<std::string, int>> outputs_;
};

}  // namespace edgeface::native
