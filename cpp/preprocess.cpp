#include "preprocess.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace edgeface {
namespace {

// 11 bits a weight, as in OpenCV's fixed-point resize. The horizontal pass keeps 15 bits, so that
// the vertical one can be a multiply-add of 16-bit pairs on every SIMD unit.
constexpr int kWeightBits = 11;
constexpr int kWeightOne = 1 << kWeightBits;
constexpr int kKeptBits = 7;
constexpr int kHorizontalShift = kWeightBits - kKeptBits;
constexpr int kVerticalShift = kWeightBits + kKeptBits;

// Pixel centres coincide: source = (i + 0.5) * from / to - 0.5, clamped to the image. Exact in integers.
Tap tap(int i, std::int64_t from, std::int64_t to) {
    const std::int64_t numerator = (2 * i + 1) * from - to;
    const std::int64_t denominator = 2 * to;
    if (numerator <= 0) return {0, 0, 0};
    const std::int64_t first = numerator / denominator;
    if (first >= from - 1) return {static_cast<int>(from) - 1, static_cast<int>(from) - 1, 0};
    const std::int64_t rest = numerator - first * denominator;
    const std::int64_t weight = (rest * kWeightOne + to) / denominator;
    return {static_cast<int>(first), static_cast<int>(first) + 1, static_cast<int>(weight)};
}

std::vector<Tap> taps(int from, int to) {
    std::vector<Tap> result(static_cast<std::size_t>(to));
    for (int i = 0; i < to; ++i) result[static_cast<std::size_t>(i)] = tap(i, from, to);
    return result;
}

// Rounded to the nearest pixel, never to nothing.
int scaled(int length, std::int64_t numerator, std::int64_t denominator) {
    const std::int64_t rounded = (2 * length * numerator + denominator) / (2 * denominator);
    return static_cast<int>(std::max<std::int64_t>(1, rounded));
}

Size letterboxed(Size frame, Size input) {
    const std::int64_t across = static_cast<std::int64_t>(input.width) * frame.height;
    const std::int64_t down = static_cast<std::int64_t>(input.height) * frame.width;
    if (across <= down) return {input.width, scaled(frame.height, input.width, frame.width)};
    return {scaled(frame.width, input.height, frame.height), input.height};
}

// Horizontal pass over one source row: kColors of each kStep bytes.
template <int kStep, int kColors>
void interpolate_row(const std::uint8_t* pixels, const std::vector<Tap>& columns, std::uint16_t* out) {
    for (const Tap& tap : columns) {
        const std::uint8_t* first = pixels + tap.first * kStep;
        const std::uint8_t* second = pixels + tap.second * kStep;
        for (int c = 0; c < kColors; ++c) {
            const int sum = first[c] * (kWeightOne - tap.weight) + second[c] * tap.weight;
            *out++ = static_cast<std::uint16_t>((sum + (1 << (kHorizontalShift - 1))) >> kHorizontalShift);
        }
    }
}

void interpolate_row(const Frame& frame, int row, const std::vector<Tap>& columns, std::uint16_t* out) {
    const std::uint8_t* pixels = frame.pixels + row * frame.row_stride;
    switch (bytes_per_pixel(frame.channels)) {
        case 1:
            return interpolate_row<1, 1>(pixels, columns, out);
        case 3:
            return interpolate_row<3, 3>(pixels, columns, out);
        default:
            return interpolate_row<4, 3>(pixels, columns, out);
    }
}

void blend_rows(const std::uint16_t* first, const std::uint16_t* second, int weight, std::size_t count,
                std::uint8_t* out) {
    for (std::size_t i = 0; i < count; ++i) {
        const int sum = first[i] * (kWeightOne - weight) + second[i] * weight;
        out[i] = static_cast<std::uint8_t>((sum + (1 << (kVerticalShift - 1))) >> kVerticalShift);
    }
}

// Makes the resized rows from top to bottom in plan.line, each source row interpolated once.
class RowSource {
  public:
    RowSource(const Frame& frame, ResizePlan& plan)
        : frame_(frame),
          plan_(plan),
          count_(static_cast<std::size_t>(plan.to.width) * (frame.channels == Channels::gray ? 1 : 3)),
          first_{-1, plan.interpolated.data()},
          second_{-1, plan.interpolated.data() + plan.interpolated.size() / 2} {}

    void make(int y) {
        const Tap& tap = plan_.rows[static_cast<std::size_t>(y)];
        if (second_.row == tap.first) std::swap(first_, second_);
        fill(first_, tap.first);
        if (tap.weight != 0) fill(second_, tap.second);
        blend_rows(first_.values, tap.weight != 0 ? second_.values : first_.values, tap.weight, count_,
                   plan_.line.data());
    }

  private:
    // A source row after the horizontal pass.
    struct Held {
        int row;
        std::uint16_t* values;
    };

    void fill(Held& held, int row) {
        if (held.row == row) return;
        interpolate_row(frame_, row, plan_.columns, held.values);
        held.row = row;
    }

    const Frame& frame_;
    ResizePlan& plan_;
    std::size_t count_;
    Held first_;
    Held second_;
};

// Where a colour of the network sits in an interleaved pixel of the frame.
int source_channel(Channels frame, Order order, int channel) {
    if (frame == Channels::gray) return 0;
    const bool frame_is_rgb = frame == Channels::rgb || frame == Channels::rgba;
    return frame_is_rgb == (order == Order::rgb) ? channel : 2 - channel;
}

// BT.601 luma in 8-bit fixed point, as JPEG and OpenCV weigh the colours.
void to_gray(std::uint8_t* line, int width, bool is_rgb) {
    for (int x = 0; x < width; ++x) {
        const std::uint8_t* pixel = line + 3 * x;
        const int red = pixel[is_rgb ? 0 : 2];
        const int blue = pixel[is_rgb ? 2 : 0];
        line[x] = static_cast<std::uint8_t>((77 * red + 150 * pixel[1] + 29 * blue + 128) >> 8);
    }
}

float normalised(int pixel, const InputSpec& spec, std::size_t channel) {
    return (static_cast<float>(pixel) - spec.mean[channel]) * spec.scale[channel];
}

// Real -> stored: to the nearest, halves to even; int8 stays symmetric, because no published engine has -128.
template <typename T>
T quantised(float value, const Quantization& quantization) {
    if constexpr (std::is_same_v<T, float>) return value;
    constexpr float kLow = std::is_same_v<T, std::int8_t> ? -127 : 0;
    constexpr float kHigh = std::is_same_v<T, std::int8_t> ? 127 : 255;
    const float zero_point = static_cast<float>(quantization.zero_point);
    // Clamped first, so that an endless value is never cast.
    const float steps = std::clamp(value / quantization.scale, kLow - zero_point, kHigh - zero_point);
    return static_cast<T>(std::nearbyint(steps) + zero_point);
}

// What every pixel value becomes in the network's input.
template <typename T>
using Table = std::array<T, 256>;

template <typename T>
std::array<Table<T>, 3> make_tables(const InputSpec& spec, const InputView& input) {
    std::array<Table<T>, 3> tables;
    for (std::size_t c = 0; c < tables.size(); ++c) {
        for (int pixel = 0; pixel < 256; ++pixel) {
            tables[c][static_cast<std::size_t>(pixel)] =
                quantised<T>(normalised(pixel, spec, c), input.quantization);
        }
    }
    return tables;
}

// Copies finished rows into the backend's buffer, every pixel through its channel's table.
template <typename T>
class Writer {
  public:
    Writer(const InputSpec& spec, const InputView& input)
        : input_(input),
          order_(spec.channels),
          tables_(make_tables<T>(spec, input)),
          zero_(quantised<T>(0, input.quantization)) {}

    // `step` bytes from pixel to pixel; one byte a pixel serves every channel.
    void row(const std::uint8_t* line, int step, Channels channels, int y, int width) const {
        for (int c = 0; c < input_.channels; ++c) {
            const std::uint8_t* source = line + (step == 1 ? 0 : source_channel(channels, order_, c));
            const Table<T>& table = tables_[static_cast<std::size_t>(c)];
            T* target = pixels(c, y);
            for (int x = 0; x < width; ++x) target[x * input_.pixel_stride] = table[source[x * step]];
        }
    }

    void clear(int x0, int y0, int x1, int y1) const {
        for (int c = 0; c < input_.channels; ++c) {
            for (int y = y0; y < y1; ++y) {
                for (int x = x0; x < x1; ++x) pixels(c, y)[x * input_.pixel_stride] = zero_;
            }
        }
    }

  private:
    T* pixels(int channel, int y) const {
        return static_cast<T*>(input_.data) + channel * input_.channel_stride + y * input_.row_stride;
    }

    InputView input_;
    Order order_;
    std::array<Table<T>, 3> tables_;
    T zero_;
};

template <typename T>
void write_frame(const Frame& frame, const InputSpec& spec, ResizePlan& plan, const InputView& input) {
    const Writer<T> writer(spec, input);
    const bool is_rgb = frame.channels == Channels::rgb || frame.channels == Channels::rgba;
    int step = frame.channels == Channels::gray ? 1 : 3;
    RowSource rows(frame, plan);
    for (int y = 0; y < plan.to.height; ++y) {
        rows.make(y);
        if (step == 3 && spec.channels == Order::gray) to_gray(plan.line.data(), plan.to.width, is_rgb);
        writer.row(plan.line.data(), spec.channels == Order::gray ? 1 : step, frame.channels, y,
                   plan.to.width);
    }
    writer.clear(plan.to.width, 0, input.size.width, plan.to.height);
    writer.clear(0, plan.to.height, input.size.width, input.size.height);
}

}  // namespace

ResizePlan plan_resize(Size frame, Size input, Resize resize) {
    ResizePlan plan;
    plan.from = frame;
    plan.to = resize == Resize::letterbox ? letterboxed(frame, input) : input;
    plan.columns = taps(frame.width, plan.to.width);
    plan.rows = taps(frame.height, plan.to.height);
    const std::size_t line = 3 * static_cast<std::size_t>(plan.to.width);
    plan.interpolated.resize(2 * line);
    plan.line.resize(line);
    plan.placement.scale_x = static_cast<float>(frame.width) / static_cast<float>(plan.to.width);
    plan.placement.scale_y = static_cast<float>(frame.height) / static_cast<float>(plan.to.height);
    return plan;
}

void preprocess(const Frame& frame, const InputSpec& spec, ResizePlan& plan, const InputView& input) {
    assert(frame.size == plan.from);
    switch (input.type) {
        case DataType::float32:
            return write_frame<float>(frame, spec, plan, input);
        case DataType::int8:
            return write_frame<std::int8_t>(frame, spec, plan, input);
        case DataType::uint8:
            return write_frame<std::uint8_t>(frame, spec, plan, input);
    }
}

}  // namespace edgeface
