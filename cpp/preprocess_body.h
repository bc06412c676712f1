// The kernels' algorithms, written once on `Shorts` and `Floats`; each ISA file defines those, includes this
// and lists the kernels that it has.
//
// Shorts: `lanes` int16, four to a column. load, store, broadcast, add, subtract; rounded_product, (a * b +
// 2^14) >> 15; high_product, (a * b) >> 16; store_rounded, (a + 64) >> 7 as bytes. load_taps gathers the
// windows of lanes / 4 columns and shuffles them; left and right are their pixels times 128. spread gives
// samples of lanes / 4 pixels, times 128, to all four places of each; broadcast_pixel repeats four places;
// store_clamped, (a + 16) >> 5 as bytes, from 0 to 255.
//
// Floats: `lanes` float32, four to a pixel in some. broadcast, broadcast_pixel, from_pixels, from_channel (of
// as many pixels as lanes), add, subtract, multiply, min, max, store; store_pixels and store_rounded_pixels
// (as bytes) leave out every fourth lane and may write as much as they leave out after the last.
//
// Everything here has internal linkage and uses no library template: code compiled for one ISA must never be
// what the linker picks for another.

void resize_columns(const Columns& columns, const std::uint8_t* row, std::int16_t* out) {
    const auto [windows, shuffle, weights, count, places] = columns;
    (void)places;  // the fourth costs nothing
    for (int i = 0; i < count; i += Shorts::lanes / 4) {
        const Shorts::Taps taps = Shorts::load_taps(row, windows + i, shuffle + 8 * i);
        const Shorts left = Shorts::left(taps);
        const Shorts difference = Shorts::subtract(Shorts::right(taps), left);
        const Shorts weight = Shorts::load(weights + 4 * i);
        Shorts::add(left, Shorts::rounded_product(difference, weight)).store(out + 4 * i);
    }
}

void blend_rows(const std::int16_t* first, const std::int16_t* second, int weight, int count,
                std::uint8_t* out) {
    // Counted from the nearer row, so that 16 bits hold the weight in 1/65536.
    const bool second_is_nearer = weight >= 1024;
    const std::int16_t* nearer = second_is_nearer ? second : first;
    const Shorts factor = Shorts::broadcast(32 * (second_is_nearer ? weight - 2048 : weight));
    for (int i = 0; i < count; i += Shorts::lanes) {
        const Shorts difference = Shorts::subtract(Shorts::load(second + i), Shorts::load(first + i));
        const Shorts sum = Shorts::add(Shorts::load(nearer + i), Shorts::high_product(difference, factor));
        sum.store_rounded(out + i);
    }
}

template <typename T>
void copy(const T* from, int count, T* to) {
    for (int i = 0; i < count; ++i) to[i] = from[i];
}

void normalise_plane(const std::uint8_t* line, int width, int channel, float mean, float scale, float* out) {
    const Floats means = Floats::broadcast(mean);
    const Floats scales = Floats::broadcast(scale);
    const auto values = [&](int x) {
        return Floats::multiply(Floats::subtract(Floats::from_channel(line + 4 * x, channel), means), scales);
    };
    int x = 0;
    for (; x + Floats::lanes <= width; x += Floats::lanes) values(x).store(out + x);
    if (x == width) return;
    float last[Floats::lanes];
    values(x).store(last);
    copy(last, width - x, out + x);
}

// Stores all vectors of pixels that a line has, without writing beyond its end. `values` makes the one that
// begins at a pixel, `store` writes three of every four lanes and up to a quarter more.
template <typename T, typename Values, typename Store>
void store_line(int width, T* out, Values values, Store store) {
    constexpr int kPixels = Floats::lanes / 4;
    int x = 0;
    for (; x + 2 * kPixels <= width; x += kPixels) store(values(x), out + 3 * x);
    for (; x < width; x += kPixels) {
        T last[Floats::lanes];
        store(values(x), last);
        copy(last, 3 * (width - x < kPixels ? width - x : kPixels), out + 3 * x);
    }
}

void normalise_pixels(const std::uint8_t* line, int width, const float* mean, const float* scale,
                      float* out) {
    const Floats means = Floats::broadcast_pixel(mean);
    const Floats scales = Floats::broadcast_pixel(scale);
    const auto values = [&](int x) {
        return Floats::multiply(Floats::subtract(Floats::from_pixels(line + 4 * x), means), scales);
    };
    store_line(width, out, values, [](const Floats& pixels, float* to) { pixels.store_pixels(to); });
}

void convert_pixels(const Samples (&yuv)[3], int width, std::uint8_t* out) {
    const auto [y, u, v] = yuv;
    const Shorts middles[3] = {Shorts::broadcast(128 * y.middle), Shorts::broadcast(128 * u.middle),
                               Shorts::broadcast(128 * v.middle)};
    const Shorts factors[3] = {Shorts::broadcast_pixel(y.factor), Shorts::broadcast_pixel(u.factor),
                               Shorts::broadcast_pixel(v.factor)};
    const auto term = [&](const Samples& samples, int i, int x) {
        const Shorts values = Shorts::spread(samples.line + x * samples.step, samples.step, samples.order);
        return Shorts::rounded_product(Shorts::subtract(values, middles[i]), factors[i]);
    };
    for (int x = 0; x < width; x += Shorts::lanes / 4) {
        const Shorts sum = Shorts::add(Shorts::add(term(y, 0, x), term(u, 1, x)), term(v, 2, x));
        sum.store_clamped(out + 4 * x);
    }
}

template <typename F>
void map_pixels(const std::uint8_t* line, int width, const PixelMap& map, std::uint8_t* out) {
    const F factor = F::broadcast_pixel(map.factor);
    const F offset = F::broadcast_pixel(map.offset);
    const F low = F::broadcast(map.low);
    const F high = F::broadcast(map.high);
    const auto values = [&](int x) {
        const F mapped = F::add(F::multiply(F::from_pixels(line + 4 * x), factor), offset);
        return F::min(F::max(mapped, low), high);
    };
    store_line(width, out, values,
               [](const F& pixels, std::uint8_t* to) { pixels.store_rounded_pixels(to); });
}

static_assert(kColumnGroup % (Shorts::lanes / 4) == 0 && kColumnGroup % Floats::lanes == 0,
              "a vector must not cross a group's end");
