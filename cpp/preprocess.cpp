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

// Where numerator / denominator, an even one, lies between `count` samples. Exact in integers.
Tap tap_at(std::int64_t numerator, std::int64_t denominator, std::int64_t count) {
    if (numerator <= 0) return {0, 0};
    const std::int64_t first = numerator / denominator;
    if (first >= count - 1) return {static_cast<int>(count) - 1, 0};
    const std::int64_t rest = numerator - first * denominator;
    const std::int64_t weight = (rest * kWeightOne + denominator / 2) / denominator;
    if (weight == kWeightOne) return {static_cast<int>(first) + 1, 0};
    return {static_cast<int>(first), static_cast<int>(weight)};
}

// Pixel centres coincide: source = (i + 0.5) * from / to - 0.5, clamped to the image.
Tap tap(int i, std::int64_t from, std::int64_t to) { return tap_at((2 * i + 1) * from - to, 2 * to, from); }

// How many U there are along `pixels` that begin with the first (0) or second (1) of two that share one.
int chroma_count(int pixels, int phase) { return (pixels + phase + 1) / 2; }

// The same of U and V, each in the middle of its pixels: source = ((i + 0.5) * from / to + phase) / 2 - 0.5.
Tap chroma_tap(int i, int from, std::int64_t to, int phase) {
    return tap_at((2 * i + 1) * std::int64_t{from} + 2 * to * (phase - 1), 4 * to, chroma_count(from, phase));
}

std::vector<Tap> row_taps(const Frame& frame, int to, bool chroma) {
    std::vector<Tap> result(static_cast<std::size_t>(to));
    for (int i = 0; i < to; ++i) {
        result[static_cast<std::size_t>(i)] =
            chroma ? chroma_tap(i, frame.size.height, to, frame.chroma_y) : tap(i, frame.size.height, to);
    }
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

// What a place of a column is blended from: two bytes of the row, and the weight of the right one.
struct Blend {
    int left;
    int right;
    int weight;
};
using Column = std::array<Blend, 4>;

// Of samples that lie `step` bytes apart, from `offset` on.
Blend blend(const Tap& tap, int step, int offset) {
    const int left = tap.first * step + offset;
    return {left, tap.weight != 0 ? left + step : left, tap.weight};
}

// The network's colours, or Y, U and V.
Column pixel_column(const Frame& frame, Order order, int i, int to) {
    Tap pixel = tap(i, frame.size.width, to);
    const int step = bytes_per_pixel(frame.channels);
    Column column{};
    if (is_packed_yuv(frame.channels)) {
        pixel.first += frame.chroma_x;
        const Tap chroma = chroma_tap(i, frame.size.width, to, frame.chroma_x);
        const int y = frame.channels == Channels::yuyv ? 0 : 1;
        column = {blend(pixel, step, y), blend(chroma, 4, 1 - y), blend(chroma, 4, 3 - y)};
    } else {
        for (int c = 0; c < 3; ++c) {
            const int offset = step == 1 ? 0 : source_channel(frame.channels, order, c);
            column[static_cast<std::size_t>(c)] = blend(pixel, step, offset);
        }
    }
    column[3] = column[2];
    return column;
}

// Of frames with chroma planes: Y of as many pixels, from `i` on, as share it; those beyond the width repeat
// the last one.
Column luma_column(const Frame& frame, int pixels, int i, int to) {
    Column column{};
    for (int p = 0; p < 4; ++p) {
        const int x = std::min(i + std::min(p, pixels - 1), to - 1);
        column[static_cast<std::size_t>(p)] = blend(tap(x, frame.size.width, to), 1, 0);
    }
    return column;
}

// U and V of one or two, or either of up to four.
Column chroma_column(const Frame& frame, int pixels, int i, int to) {
    const int step = chroma_step(frame.channels);
    const int first = frame.channels == Channels::nv21 ? 1 : 0;
    Column column{};
    for (int place = 0; place < 4; ++place) {
        const int x = std::min(i + std::min(place / step, pixels - 1), to - 1);
        const int offset = (first + place) % step;
        const Tap chroma = chroma_tap(x, frame.size.width, to, frame.chroma_x);
        column[static_cast<std::size_t>(place)] = blend(chroma, step, offset);
    }
    return column;
}

// What of a frame a line of columns is made from.
enum class Plane { pixels, luma, chroma };

std::vector<Column> make_columns(const Frame& frame, Plane plane, Order order, int pixels, int width) {
    const int count = ((width + pixels - 1) / pixels + kColumnGroup - 1) / kColumnGroup * kColumnGroup;
    std::vector<Column> columns(static_cast<std::size_t>(count));
    int x = 0;
    for (Column& column : columns) {
        const int i = std::min(x, width - 1);
        column = plane == Plane::pixels ? pixel_column(frame, order, i, width)
                 : plane == Plane::luma ? luma_column(frame, pixels, i, width)
                                        : chroma_column(frame, pixels, i, width);
        x += pixels;
    }
    return columns;
}

// Where the window begins from which all of a column can be blended.
int window_of(const Column& column, int last_window) {
    int window = last_window;
    for (const Blend& blend : column) window = std::min(window, blend.left);
    return window;
}

// Windows end where the row ends: nothing beyond it may be read.
int last_window(int row_bytes) { return std::max(0, row_bytes - kWindow); }

bool fit_windows(const std::vector<Column>& columns, int row_bytes) {
    return std::all_of(columns.begin(), columns.end(), [&](const Column& column) {
        const int end = window_of(column, last_window(row_bytes)) + kWindow;
        return std::all_of(column.begin(), column.end(),
                           [&](const Blend& blend) { return blend.right < end; });
    });
}

int row_bytes(const Frame& frame, Plane plane) {
    if (plane == Plane::chroma)
        return chroma_step(frame.channels) * chroma_count(frame.size.width, frame.chroma_x);
    if (is_packed_yuv(frame.channels)) return 4 * chroma_count(frame.size.width, frame.chroma_x);
    return frame.size.width * bytes_per_pixel(frame.channels);
}

void set_columns(PlaneResize& plane, const std::vector<Column>& columns) {
    plane.windows.resize(columns.size());
    plane.shuffle.resize(columns.size() * 8);
    plane.weights.resize(columns.size() * 4);
    for (std::size_t i = 0; i < columns.size(); ++i) {
        const int window = window_of(columns[i], last_window(plane.row_bytes));
        plane.windows[i] = window;
        // Two columns share a shuffle: the second's window, and its places, lie behind the first's.
        const std::size_t second = i % 2;
        std::uint8_t* shuffle = plane.shuffle.data() + i / 2 * 16 + second * 4;
        const int before = static_cast<int>(second) * kWindow - window;
        for (std::size_t c = 0; c < 4; ++c) {
            const auto [left, right, weight] = columns[i][c];
            shuffle[c] = static_cast<std::uint8_t>(before + left);
            shuffle[8 + c] = static_cast<std::uint8_t>(before + right);
            plane.weights[4 * i + c] = static_cast<std::int16_t>(weight * (32768 / kWeightOne));
        }
    }
}

PlaneResize plan_plane(const Frame& frame, Plane kind, Order order, Size to) {
    PlaneResize plane;
    plane.row_bytes = row_bytes(frame, kind);
    // As many pixels a column as its window reaches: the further the frame is reduced, the fewer.
    plane.pixels = kind == Plane::luma ? 4 : kind == Plane::chroma ? 4 / chroma_step(frame.channels) : 1;
    std::vector<Column> columns = make_columns(frame, kind, order, plane.pixels, to.width);
    while (!fit_windows(columns, plane.row_bytes)) {
        assert(plane.pixels > 1);
        plane.pixels /= 2;
        columns = make_columns(frame, kind, order, plane.pixels, to.width);
    }
    set_columns(plane, columns);
    plane.rows = row_taps(frame, to.height, kind == Plane::chroma);
    plane.resized.resize(2 * plane.weights.size());
    plane.line.resize(plane.weights.size() + kLinePadding);
    return plane;
}

// BT.601 in limited range (Y 16 to 235, U and V 16 to 240), which V4L2 means unless a driver says otherwise.
// In 1/8192: 255 / 219; and 255 / 224 times 1.402, 0.714136, 0.344136 and 1.772.
struct Colour {
    int middle;
    std::int16_t red, green, blue;
};
constexpr Colour kYuv[3] = {{16, 9539, 9539, 9539}, {128, 0, -3209, 16525}, {128, 13075, -6660, 0}};

// Y, U or V (0 to 2) as they lie in a plane's line: `per_pixel` places a pixel, this one's the `place`-th.
Samples plan_samples(const PlaneResize& plane, int index, int per_pixel, int place, Order order) {
    Samples samples{};
    samples.step = 4 / plane.pixels;
    samples.middle = kYuv[index].middle;
    for (int p = 0; p < 16; ++p) {
        const int pixel = p / 4;
        samples.order[p] =
            static_cast<std::uint8_t>(pixel / plane.pixels * 4 + pixel % plane.pixels * per_pixel + place);
    }
    const auto [middle, red, green, blue] = kYuv[index];
    const bool is_bgr = order == Order::bgr;
    samples.factor[0] = is_bgr ? blue : red;
    samples.factor[1] = green;
    samples.factor[2] = is_bgr ? red : blue;
    return samples;
}

void plan_colours(ResizePlan& plan, Order order) {
    const PlaneResize& luma = plan.planes.front();
    const PlaneResize& chroma = plan.planes.back();
    plan.yuv[0] = plan_samples(luma, 0, 1, 0, order);
    if (plan.planes.size() == 3) {
        plan.yuv[1] = plan_samples(chroma, 1, 1, 0, order);
        plan.yuv[2] = plan_samples(chroma, 2, 1, 0, order);
    } else {
        const bool packed = plan.planes.size() == 1;
        plan.yuv[1] = plan_samples(chroma, 1, 2, packed ? 1 : 0, order);
        plan.yuv[2] = plan_samples(chroma, 2, 2, packed ? 2 : 1, order);
    }
    const int groups = (plan.to.width + kColumnGroup - 1) / kColumnGroup;
    plan.colours.resize(static_cast<std::size_t>(groups * kColumnGroup * 4));
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

// Makes a plane's resized rows from top to bottom in its line, each source row interpolated once.
class RowSource {
  public:
    RowSource(const std::uint8_t* pixels, std::ptrdiff_t row_stride, int places, PlaneResize& plane,
              const PreprocessKernels& kernels)
        : pixels_(pixels),
          row_stride_(row_stride),
          places_(places),
          plane_(plane),
          kernels_(kernels),
          first_{-1, plane.resized.data()},
          second_{-1, plane.resized.data() + plane.resized.size() / 2} {}

    void make(std::size_t y) {
        const Tap& tap = plane_.rows[y];
        if (y + 1 < plane_.rows.size()) prefetch(plane_.rows[y + 1]);
        if (second_.row == tap.first) std::swap(first_, second_);
        fill(first_, tap.first);
        if (tap.weight != 0) fill(second_, tap.first + 1);
        kernels_.blend_rows(first_.values, tap.weight != 0 ? second_.values : first_.values, tap.weight,
                            plane_.places(), plane_.line.data());
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
        const int last = tap.first + (tap.weight != 0 ? 1 : 0);
        for (int row = std::max(tap.first, prefetched_ + 1); row <= last; ++row) {
            const std::uint8_t* pixels = pixels_ + row * row_stride_;
            for (int i = 0; i < plane_.row_bytes; i += kCacheLine) __builtin_prefetch(pixels + i);
        }
        prefetched_ = last;
    }

    void fill(Held& held, int row) {
        if (held.row == row) return;
        held.row = row;
        const Columns columns{plane_.windows.data(), plane_.shuffle.data(), plane_.weights.data(),
                              static_cast<int>(plane_.windows.size()), places_};
        const std::uint8_t* pixels = pixels_ + row * row_stride_;
        if (plane_.row_bytes >= kWindow) return kernels_.resize_columns(columns, pixels, held.values);
        std::array<std::uint8_t, kWindow> narrow{};
        std::copy_n(pixels, plane_.row_bytes, narrow.begin());
        kernels_.resize_columns(columns, narrow.data(), held.values);
    }

    const std::uint8_t* pixels_;
    std::ptrdiff_t row_stride_;
    int places_;
    PlaneResize& plane_;
    const PreprocessKernels& kernels_;
    Held first_;
    Held second_;
    int prefetched_ = -1;
};

// BT.601 luma in 8-bit fixed point, as JPEG and OpenCV weigh the colours; of gray it is that gray.
void to_gray(std::uint8_t* line, int width) {
    for (int i = 0; i < 4 * width; i += 4) {
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
    const std::size_t planes = plan.planes.size();
    const int places = planes > 1 ? 4 : 3;
    PlaneResize& first = plan.planes.front();
    PlaneResize& second = plan.planes[planes > 1 ? 1 : 0];
    PlaneResize& last = plan.planes.back();
    RowSource rows(frame.pixels, frame.row_stride, places, first, *plan.kernels);
    RowSource chroma(frame.chroma, frame.chroma_stride, places, second, *plan.kernels);
    RowSource chroma_v(frame.chroma + frame.v_offset, frame.chroma_stride, places, last, *plan.kernels);
    plan.yuv[0].line = first.line.data();
    plan.yuv[1].line = second.line.data();
    plan.yuv[2].line = last.line.data();
    std::uint8_t* line = plan.colours.empty() ? first.line.data() : plan.colours.data();
    for (int y = 0; y < plan.to.height; ++y) {
        rows.make(static_cast<std::size_t>(y));
        if (planes > 1) chroma.make(static_cast<std::size_t>(y));
        if (planes > 2) chroma_v.make(static_cast<std::size_t>(y));
        if (!plan.colours.empty()) plan.kernels->convert_pixels(plan.yuv, plan.to.width, line);
        if (spec.channels == Order::gray) to_gray(line, plan.to.width);
        writer.row(line, y, plan.to.width);
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
    plan.chroma_x = frame.chroma_x;
    plan.chroma_y = frame.chroma_y;
    plan.to = spec.resize == Resize::letterbox ? letterboxed(frame.size, spec.size) : spec.size;
    if (has_chroma_plane(frame.channels)) {
        plan.planes.push_back(plan_plane(frame, Plane::luma, spec.channels, plan.to));
        plan.planes.push_back(plan_plane(frame, Plane::chroma, spec.channels, plan.to));
        if (frame.channels == Channels::i420) plan.planes.push_back(plan.planes.back());
    } else {
        plan.planes.push_back(plan_plane(frame, Plane::pixels, spec.channels, plan.to));
    }
    if (is_yuv(frame.channels)) plan_colours(plan, spec.channels);
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
