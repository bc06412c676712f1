// 512-bit vectors: AVX-512F, and BW for 16-bit integers. For the kernel files that include it, inside their
// namespace.

struct Ints;

struct Vec {
    static constexpr int lanes = 16;
    using Four = const float*;
    static constexpr bool walks = false;
    __m512 v;

    static Vec load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
    void store(float* to) const { _mm512_storeu_ps(to, v); }
    void store_first(int count, float* to) const {
        _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1U << count) - 1), v);
    }
    static Four four(const float* from) { return from; }
    template <int i>
    static Vec fused(Vec row, Four four, Vec sum) {
        return {_mm512_fmadd_ps(row.v, _mm512_set1_ps(four[i]), sum.v)};
    }
    static Vec fused(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
    static Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
    static Vec subtract(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
    static Vec multiply(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
    static Vec divide(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
    static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
    static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
    static Vec two_to(Ints whole);
    static void deinterleave(const float* in, Vec* a, Vec* b) {
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
        const __m512 first = _mm512_loadu_ps(in);
        const __m512 second = _mm512_loadu_ps(in + lanes);
        a->v = _mm512_permutex2var_ps(first, even, second);
        b->v = _mm512_permutex2var_ps(first, odd, second);
    }
    static void interleave(Vec a, Vec b, float* out) {
        const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        _mm512_storeu_ps(out, _mm512_permutex2var_ps(a.v, low, b.v));
        _mm512_storeu_ps(out + lanes, _mm512_permutex2var_ps(a.v, high, b.v));
    }
};

struct Ints {
    static constexpr int lanes = 16;
    static constexpr int packed = 4;
    struct Narrowing;
    __m512i v;

    static Ints load(const std::int32_t* from) { return {_mm512_loadu_si512(from)}; }
    static Ints broadcast(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
    static Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
    static Ints subtract(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
    static Ints halved(Ints a) { return {_mm512_srai_epi32(a.v, 1)}; }
    void store_bytes(std::uint8_t* to) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v));
    }
    void store_first_bytes(int count, std::uint8_t* to) const {
        _mm512_mask_cvtepi32_storeu_epi8(to, static_cast<__mmask16>((1U << count) - 1), v);
    }
    static Ints widen(const std::int8_t* from) {
        return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    static Ints widen(const std::uint8_t* from) {
        return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    // As in kernels_avx2.cpp: 0 in the upper halves.
    using Factors = __m512i;
    static Factors load_factors(const std::int16_t* from) {
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    static Ints multiply_add(Ints sum, Ints values, Factors with) {
        return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(values.v, with))};
    }
    static Vec to_floats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
    static Ints rounded(Vec a) {
        return {_mm512_cvt_roundps_epi32(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    }
};

// 64 bytes: kPieces neighbouring pixels' 64 / kPieces channels.
template <int kPieces>
__attribute__((always_inline)) inline void store_pieces(__m512i values, void* to, std::ptrdiff_t step) {
    auto* bytes = static_cast<std::uint8_t*>(to);
    if (kPieces == 1 || step == 64 / kPieces) return _mm512_storeu_si512(bytes, values);
    if constexpr (kPieces == 2) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), _mm512_castsi512_si256(values));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes + step), _mm512_extracti64x4_epi64(values, 1));
    }
    if constexpr (kPieces == 4) {
        const auto piece = [&](int i, __m128i value) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + i * step), value);
        };
        piece(0, _mm512_castsi512_si128(values));
        piece(1, _mm512_extracti32x4_epi32(values, 1));
        piece(2, _mm512_extracti32x4_epi32(values, 2));
        piece(3, _mm512_extracti32x4_epi32(values, 3));
    }
}

// Four vectors of values within their upper bound, or within int32 where that is the type's, become bytes
// together; what was below int32 is its least value, which saturates.
struct Ints::Narrowing {
    __m512i zero_point;  // 16 bits
    __m512i low;         // bytes

    explicit Narrowing(const Requantization& to)
        : zero_point(_mm512_set1_epi16(static_cast<short>(to.zero_point))),
          low(_mm512_set1_epi8(static_cast<char>(static_cast<int>(to.low) + to.zero_point))) {}

    template <bool kHasZeroPoint>
    __m512i halves(Ints a, Ints b) const {
        const __m512i words = _mm512_packs_epi32(a.v, b.v);
        return kHasZeroPoint ? _mm512_adds_epi16(words, zero_point) : words;
    }
    // Within each 128-bit lane, those of from[0], from[1], from[2] and from[3] follow one another.
    template <bool kHasZeroPoint = true>
    __m512i bytes(const Ints* from, const std::int8_t*) const {
        return _mm512_max_epi8(_mm512_packs_epi16(halves<kHasZeroPoint>(from[0], from[1]),
                                                  halves<kHasZeroPoint>(from[2], from[3])),
                               low);
    }
    template <bool kHasZeroPoint = true>
    __m512i bytes(const Ints* from, const std::uint8_t*) const {
        return _mm512_max_epu8(_mm512_packus_epi16(halves<kHasZeroPoint>(from[0], from[1]),
                                                   halves<kHasZeroPoint>(from[2], from[3])),
                               low);
    }
    static __m512i in_order(__m512i bytes) {
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        return _mm512_permutexvar_epi32(order, bytes);
    }
    // The vectors one after another, of kPixels pixels.
    template <int kPixels, typename T>
    void store(const Ints* from, T* to, std::ptrdiff_t step) const {
        store_pieces<kPixels>(in_order(bytes(from, to)), to, step);
    }
};

Vec Vec::two_to(Ints whole) {
    constexpr int kBias = 127;
    constexpr int kMantissa = 23;
    const __m512i exponent = _mm512_add_epi32(whole.v, _mm512_set1_epi32(kBias));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, kMantissa))};
}

// 24 of the 32 registers hold sums.
constexpr int kTilePixels = 12;
constexpr int kTileChannels = 32;

// Half a vector: up to 8 channels fill no more, and a CPU that makes 512 bits in two halves makes these two
// at a time.
struct Narrow {
    static constexpr int lanes = 8;
    using Four = const float*;
    static constexpr bool walks = false;
    __m256 v;

    static Narrow load(const float* from) { return {_mm256_loadu_ps(from)}; }
    static Narrow broadcast(float x) { return {_mm256_set1_ps(x)}; }
    void store(float* to) const { _mm256_storeu_ps(to, v); }
    void store_first(int count, float* to) const {
        _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1U << count) - 1), _mm512_castps256_ps512(v));
    }
    static Four four(const float* from) { return from; }
    template <int i>
    static Narrow fused(Narrow row, Four four, Narrow sum) {
        return {_mm256_fmadd_ps(row.v, _mm256_broadcast_ss(four + i), sum.v)};
    }
    static Narrow fused(Narrow a, Narrow b, Narrow c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static Narrow multiply(Narrow a, Narrow b) { return {_mm256_mul_ps(a.v, b.v)}; }
    static Narrow min(Narrow a, Narrow b) { return {_mm256_min_ps(a.v, b.v)}; }
    static Narrow max(Narrow a, Narrow b) { return {_mm256_max_ps(a.v, b.v)}; }
};
constexpr int kNarrowPixels = 12;
constexpr int kDepthwisePixels = 8;
constexpr int kStridedPixels = 8;
constexpr bool kDepthwiseAcross = true;

struct Pairs {
    static constexpr int depth = 2;
    static constexpr int input_bytes = 2;
    static constexpr int weight_bytes = 2;
    static constexpr int offset = 0;
    static constexpr int tile_pixels = kTilePixels;
    static constexpr bool unrolls = true;
    using Weights = __m512i;
    using Four = const std::byte*;

    static Weights load(const std::byte* from) { return _mm512_loadu_si512(from); }
    static Four four(const std::byte* from) { return from; }
    static Four one(const std::byte* from) { return from; }
    template <int i>
    static Ints dot(Weights row, Four four, Ints sum) {
        std::int32_t pair;
        __builtin_memcpy(&pair, four + i * sizeof(pair), sizeof(pair));
        return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(_mm512_set1_epi32(pair), row))};
    }
};
