#include "preprocess.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

#include "backends/native/cpu.h"

namespace edgeface {
namespace {

// 11 bits a weight, as in OpenCV's fixed-point resize. The horizontal pass keeps 15 bits of a sum, so that
// 16-bit lanes hold everything.
constexpr int kWeightOne = 1 << 11;

// Pixel centres coincide: source = (i + 0.5) * from / to - 0.5, clamped to the image. Exact in integers.
Tap tap(int i, std::int64_t from, std::int64_t to) {
    const std::int64_t numerator = (2 * i + 1) * from - to;
    const std::int64_t denominator = 2 * to;
    if (numerator <= 0) return {0, 0};
    const std::int64_t first = numerator / denominator;
    if (first >= from - 1) return {static_cast<int>(from) - 1, 0};
    const std::int64_t rest = numerator - first * denominator;
    const std::int64_t weight = (rest * kWeightOne + to) / denominator;
    if (weight == kWeightOne) return {static_cast<int>(first) + 1, 0};
    return {static_cast<int>(first), static_cast<int>(weight)};
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

// Where a colour of the network sits in an interleaved pixel of the frame. Gray networks are given RGB to
// weigh.
int source_channel(Channels frame, Order order, int channel) {
    if (frame == Channels::gray) return 0;
    const bool frame_is_rgb = frame == Channels::rgb || frame == Channels::rgba;
    return frame_is_rgb == (order != Order::bgr) ? channel : 2 - channel;
}

int row_bytes(const ResizePlan& plan) { return plan.from.width * bytes_per_pixel(plan.channels); }

// The columns beyond the width repeat the last one.
void plan_columns(ResizePlan& plan, Order order) {
    const int count = (plan.to.width + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
    plan.windows.resize(static_cast<std::size_t>(count));
    plan.shuffle.resize(static_cast<std::size_t>(count) * 8);
    plan.weights.resize(static_cast<std::size_t>(count) * 4);
    const int step = bytes_per_pixel(plan.channels);
    // Windows end where the row ends: nothing beyond it may be read.
    const int last_window = std::max(0, row_bytes(plan) - kWindow);
    for (int i = 0; i < count; ++i) {
        const auto [first, weight] = tap(std::min(i, plan.to.width - 1), plan.from.width, plan.to.width);
        const int window = std::min(first * step, last_window);
        plan.windows[static_cast<std::size_t>(i)] = window;
        // Two columns share a shuffle: the second's window, and its places, lie behind the first's.
        const int second = i % 2;
        std::uint8_t* shuffle = plan.shuffle.data() + i / 2 * 16 + second * 4;
        for (int c = 0; c < 3; ++c) {
            const int left =
                second * kWindow + first * step - window + source_channel(plan.channels, order, c);
            shuffle[c] = static_cast<std::uint8_t>(left);
            shuffle[8 + c] = static_cast<std::uint8_t>(weight != 0 ? left + step : left);
        }
        const auto fraction = static_cast<std::int16_t>(weight * (32768 / kWeightOne));
        std::fill_n(plan.weights.begin() + 4 * i, 4, fraction);
    }
}

const PreprocessKernels* find_kernels(std::string_view isa) {
#if defined(__x86_64__)
    const auto known = {&avx512_preprocess(), &avx2_preprocess(), &scalar_preprocess()};
#elif defined(__aarch64__) || defined(__arm__)
    const auto known = {&neon_preprocess(), &scalar_preprocess()};
#else
    const auto known = {&scalar_preprocess()};
#endif
    const auto* found = std::find_if(known.begin(), known.end(),
                                     [&](const PreprocessKernels* kernels) { return kernels->isa == isa; });
    return found != known.end() ? *found : nullptr;
}

// Makes the resized rows from top to bottom in plan.line, each source row interpolated once.
class RowSource {
  public:
    RowSource(const Frame& frame, ResizePlan& plan)
        : frame_(frame),
          plan_(plan),
          first_{-1, plan.resized.data()},
          second_{-1, plan.resized.data() + plan.resized.size() / 2} {}

    void make(int y) {
        const Tap& tap = plan_.rows[static_cast<std::size_t>(y)];
        if (y + 1 < plan_.to.height) prefetch(plan_.rows[static_cast<std::size_t>(y) + 1]);
        if (second_.row == tap.first) std::swap(first_, second_);
        fill(first_, tap.first);
        if (tap.weight != 0) fill(second_, tap.first + 1);
        plan_.kernels->blend_rows(first_.values, tap.weight != 0 ? second_.values : first_.values, tap.weight,
                                  static_cast<int>(plan_.line.size()), plan_.line.data());
    }

  private:
    // A source row after the horizontal pass.
    struct Held {
        int row;
        std::int16_t* values;
    };

    // Halves the time of a frame that is in no cache yet: hardware follows a row, but not to the next one
    // needed.
    void prefetch(const Tap& tap) {
        constexpr int kCacheLine = 64;
        const int bytes = row_bytes(plan_);
        const int last = tap.first + (tap.weight != 0 ? 1 : 0);
        for (int row = std::max(tap.first, prefetched_ + 1); row <= last; ++row) {
            const std::uint8_t* pixels = frame_.pixels + row * frame_.row_stride;
            for (int i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(pixels + i);
        }
        prefetched_ = last;
    }

    void fill(Held& held, int row) {
        if (held.row == row) return;
        held.row = row;
        const Columns columns{plan_.windows.data(), plan_.shuffle.data(), plan_.weights.data(),
                              static_cast<int>(plan_.windows.size())};
        const std::uint8_t* pixels = frame_.pixels + row * frame_.row_stride;
        if (row_bytes(plan_) >= kWindow) return plan_.kernels->resize_columns(columns, pixels, held.values);
        std::array<std::uint8_t, kWindow> narrow{};
        std::copy_n(pixels, row_bytes(plan_), narrow.begin());
        plan_.kernels->resize_columns(columns, narrow.data(), held.values);
    }

    const Frame& frame_;
    ResizePlan& plan_;
    Held first_;
    Held second_;
    int prefetched_ = -1;
};

// BT.601 luma in 8-bit fixed point, as JPEG and OpenCV weigh the colours; of gray it is that gray.
void to_gray(std::vector<std::uint8_t>& line) {
    for (std::size_t i = 0; i < line.size(); i += 4) {
        line[i] = static_cast<std::uint8_t>((77 * line[i] + 150 * line[i + 1] + 29 * line[i + 2] + 128) >> 8);
    }
}

float normalised(int pixel, const InputSpec& spec, std::size_t channel) {
    return (static_cast<float>(pixel) - spec.mean[channel]) * spec.scale[channel];
}

// What a stored value may be; int8 stays symmetric, because no published engine has -128.
template <typename T>
constexpr float kLow = std::is_same_v<T, std::int8_t> ? -127 : 0;
template <typename T>
constexpr float kHigh = std::is_same_v<T, std::int8_t> ? 127 : 255;

// Real -> stored: to the nearest, halves to even.
template <typename T>
T quantised(float value, const Quantization& quantization) {
    if constexpr (std::is_same_v<T, float>) return value;
    const float zero_point = static_cast<float>(quantization.zero_point);
    // Clamped first, so that an endless value is never cast.
    const float steps = std::clamp(value / quantization.scale, kLow<T> - zero_point, kHigh<T> - zero_point);
    return static_cast<T>(std::nearbyint(steps) + zero_point);
}

// What every pixel value becomes in the network's input.
template <typename T>
using Table = std::array<T, 256>;

template <typename T>
std::array<Table<T>, 3> make_tables(const InputSpec& spec, const Quantization& quantization) {
    std::array<Table<T>, 3> tables;
    for (std::size_t c = 0; c < tables.size(); ++c) {
        for (int pixel = 0; pixel < 256; ++pixel) {
            tables[c][static_cast<std::size_t>(pixel)] =
                quantised<T>(normalised(pixel, spec, c), quantization);
        }
    }
    return tables;
}

// The same in fewer steps, which round differently.
template <typename T>
PixelMap make_map(const InputSpec& spec, const Quantization& quantization) {
    PixelMap map{};
    for (std::size_t c = 0; c < spec.mean.size(); ++c) {
        map.factor[c] = spec.scale[c] / quantization.scale;
        map.offset[c] = static_cast<float>(quantization.zero_point) - spec.mean[c] * map.factor[c];
    }
    map.low = kLow<T>;
    map.high = kHigh<T>;
    return map;
}

// Whether the map gives what the tables hold, for every pixel value. Where none of 256 lies near a tie, as
// with scales that were measured, it does.
template <typename T>
bool agree(const PreprocessKernels& kernels, const PixelMap& map, const std::array<Table<T>, 3>& tables) {
    std::array<std::uint8_t, 4 * 256> line{};
    std::array<std::uint8_t, 3 * 256> mapped{};
    for (std::size_t i = 0; i < line.size(); ++i) line[i] = static_cast<std::uint8_t>(i / 4);
    kernels.map_pixels(line.data(), 256, map, mapped.data());
    for (std::size_t i = 0; i < mapped.size(); ++i) {
        if (static_cast<T>(mapped[i]) != tables[i % 3][i / 3]) return false;
    }
    return true;
}

// Turns finished rows into what the backend's buffer is to hold.
template <typename T>
class Writer {
  public:
    Writer(const InputSpec& spec, const InputView& input, const PreprocessKernels& kernels)
        : input_(input),
          kernels_(kernels),
          mean_{spec.mean[0], spec.mean[1], spec.mean[2]},
          scale_{spec.scale[0], spec.scale[1], spec.scale[2]},
          tables_(make_tables<T>(spec, input.quantization)),
          zero_(quantised<T>(0, input.quantization)) {
        if constexpr (!std::is_same_v<T, float>) {
            map_ = make_map<T>(spec, input.quantization);
            mapped_ = is_interleaved() && kernels.map_pixels != nullptr && agree(kernels, map_, tables_);
        }
    }

    void row(const std::uint8_t* line, int y, int width) const {
        if constexpr (!std::is_same_v<T, float>) {
            if (mapped_)
                return kernels_.map_pixels(line, width, map_, reinterpret_cast<std::uint8_t*>(at(0, y)));
        } else if (is_interleaved()) {
            return kernels_.normalise_pixels(line, width, mean_.data(), scale_.data(), at(0, y));
        }
        for (int c = 0; c < input_.channels; ++c) channel(line, c, at(c, y), width);
    }

    void clear(int x0, int y0, int x1, int y1) const {
        for (int y = y0; y < y1; ++y) {
            if (is_interleaved()) {
                std::fill(at(0, y) + 3 * x0, at(0, y) + 3 * x1, zero_);
                continue;
            }
            for (int c = 0; c < input_.channels; ++c) {
                for (int x = x0; x < x1; ++x) at(c, y)[x * input_.pixel_stride] = zero_;
            }
        }
    }

  private:
    bool is_interleaved() const {
        return input_.channels == 3 && input_.channel_stride == 1 && input_.pixel_stride == 3;
    }

    T* at(int channel, int y) const {
        return static_cast<T*>(input_.data) + channel * input_.channel_stride + y * input_.row_stride;
    }

    void channel(const std::uint8_t* line, int index, T* out, int width) const {
        const auto c = static_cast<std::size_t>(index);
        if constexpr (std::is_same_v<T, float>) {
            if (input_.pixel_stride == 1) {
                return kernels_.normalise_plane(line, width, index, mean_[c], scale_[c], out);
            }
        }
        for (int x = 0; x < width; ++x) out[x * input_.pixel_stride] = tables_[c][line[4 * x + index]];
    }

    InputView input_;
    const PreprocessKernels& kernels_;
    std::array<float, 4> mean_;
    std::array<float, 4> scale_;
    std::array<Table<T>, 3> tables_;
    T zero_;
    PixelMap map_{};
    bool mapped_ = false;
};

template <typename T>
void write_frame(const Frame& frame, const InputSpec& spec, ResizePlan& plan, const InputView& input) {
    const Writer<T> writer(spec, input, *plan.kernels);
    RowSource rows(frame, plan);
    for (int y = 0; y < plan.to.height; ++y) {
        rows.make(y);
        if (spec.channels == Order::gray) to_gray(plan.line);
        writer.row(plan.line.data(), y, plan.to.width);
    }
    writer.clear(plan.to.width, 0, input.size.width, plan.to.height);
    writer.clear(0, plan.to.height, input.size.width, input.size.height);
}

}  // namespace

const PreprocessKernels& select_preprocess(const std::string& isa) {
    const native::Kernels* chosen = &native::select_kernels(isa);
    bool reached = false;
    for (const native::Kernels* engine : native::available_kernels()) {
        reached = reached || engine == chosen;
        const PreprocessKernels* kernels = reached ? find_kernels(engine->isa) : nullptr;
        if (kernels != nullptr) return *kernels;
    }
    return scalar_preprocess();
}

ResizePlan plan_resize(const Frame& frame, const InputSpec& spec, const PreprocessKernels& kernels) {
    ResizePlan plan;
    plan.from = frame.size;
    plan.channels = frame.channels;
    plan.to = spec.resize == Resize::letterbox ? letterboxed(frame.size, spec.size) : spec.size;
    plan_columns(plan, spec.channels);
    plan.rows = taps(frame.size.height, plan.to.height);
    plan.resized.resize(2 * plan.weights.size());
    plan.line.resize(plan.weights.size());
    plan.placement.scale_x = static_cast<float>(frame.size.width) / static_cast<float>(plan.to.width);
    plan.placement.scale_y = static_cast<float>(frame.size.height) / static_cast<float>(plan.to.height);
    plan.kernels = &kernels;
    return plan;
}

void preprocess(const Frame& frame, const InputSpec& spec, ResizePlan& plan, const InputView& input) {
    assert(plan.fits(frame));
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
