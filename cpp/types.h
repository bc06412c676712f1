// Plain views and plain data that the stages hand to one another.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace edgeface {

struct Size {
    int width = 0;
    int height = 0;

    friend bool operator==(Size a, Size b) { return a.width == b.width && a.height == b.height; }
    friend bool operator!=(Size a, Size b) { return !(a == b); }
};

// In frame pixels.
struct Rect {
    int x = 0;
    int y = 0;
    int width = 0;
    int height = 0;
};

// The last five are what cameras send: Y, and a U and a V for two pixels side by side (yuyv, uyvy) or for two
// by two (nv12, nv21; i420, where U and V have a plane each).
enum class Channels { bgr, rgb, bgra, rgba, gray, yuyv, uyvy, nv12, nv21, i420 };

inline bool is_packed_yuv(Channels channels) {
    return channels == Channels::yuyv || channels == Channels::uyvy;
}

// One of both, or one of U and one of V.
inline bool has_chroma_plane(Channels channels) {
    return channels == Channels::nv12 || channels == Channels::nv21 || channels == Channels::i420;
}

// In a chroma plane, bytes from a U to the next.
inline int chroma_step(Channels channels) { return channels == Channels::i420 ? 1 : 2; }

inline bool is_yuv(Channels channels) { return is_packed_yuv(channels) || has_chroma_plane(channels); }

// In the first plane.
inline int bytes_per_pixel(Channels channels) {
    switch (channels) {
        case Channels::gray:
        case Channels::nv12:
        case Channels::nv21:
        case Channels::i420:
            return 1;
        case Channels::yuyv:
        case Channels::uyvy:
            return 2;
        case Channels::bgr:
        case Channels::rgb:
            return 3;
        case Channels::bgra:
        case Channels::rgba:
            return 4;
    }
    return 0;
}

struct Point {
    float x = 0;
    float y = 0;
};

// What the caller passes: packed pixels of one byte a channel, rows any distance apart.
struct Frame {
    const std::uint8_t* pixels = nullptr;
    Size size;
    std::ptrdiff_t row_stride = 0;  // bytes; negative for a frame stored bottom up
    Channels channels = Channels::bgr;
    // With has_chroma_plane: a row for two rows of pixels, of pairs or, in i420, of U.
    const std::uint8_t* chroma = nullptr;
    std::ptrdiff_t chroma_stride = 0;
    std::ptrdiff_t v_offset = 0;  // bytes from U's plane to V's, in i420
    // Part of a YUV frame: 1 where it begins with the second of the pixels that share a U and a V.
    int chroma_x = 0;
    int chroma_y = 0;
    // How many pixels of what the caller sees lie along one of these: a JPEG may have been decoded smaller.
    Point reduction{1, 1};
};

enum class DataType { float32, int8, uint8 };

// real = (stored - zero_point) * scale; 1 and 0 where values are stored as they are.
struct Quantization {
    float scale = 1;
    int zero_point = 0;

    friend bool operator==(const Quantization& a, const Quantization& b) {
        return a.scale == b.scale && a.zero_point == b.zero_point;
    }
};

// Where preprocessing writes: the backend's own buffer, in whatever type and order the backend keeps it.
struct InputView {
    void* data = nullptr;
    DataType type = DataType::float32;
    Quantization quantization;
    Size size;
    int channels = 0;
    std::ptrdiff_t channel_stride = 0;  // elements
    std::ptrdiff_t row_stride = 0;
    std::ptrdiff_t pixel_stride = 0;
};

// One head as the backend stores it: a row for every prior.
struct OutputView {
    const void* data = nullptr;
    DataType type = DataType::float32;
    Quantization quantization;
    int rows = 0;
    int columns = 0;

    std::size_t values() const { return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns); }
};

// The same as real numbers.
struct Head {
    const float* data = nullptr;
    int rows = 0;
    int columns = 0;
};

// Network input pixels -> frame pixels: frame = input * scale + offset.
struct Placement {
    float scale_x = 1;
    float scale_y = 1;
    float offset_x = 0;
    float offset_y = 0;
};

// Corners x1, y1, x2, y2.
struct Box {
    float x1 = 0;
    float y1 = 0;
    float x2 = 0;
    float y2 = 0;
};

// A decoded prior, in network input pixels until it is placed in the frame.
struct Detection {
    Box box;
    float score = 0;
    int prior = 0;
    std::array<Point, 5> landmarks{};
};

}  // namespace edgeface
