// How many multiply-adds a core does at best, with the instructions that edgeface's kernels of one
// instruction set use: a shared library that kernels.py compiles with that set's flags. Eight sums hide the
// latency of two instructions a cycle, four cycles each; operands stay in registers.
#include <stdint.h>
#include <time.h>

// Variables of their own: compilers leave an array in memory.
#define SUMS 8
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define ROUNDS 20000

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#if defined(__x86_64__)
#include <immintrin.h>
#define KEEP(value) __asm__ volatile("" : "+v"(value))
#if defined(__AVX512F__)
typedef __m512 Floats;
typedef __m512i Ints;
#define FLOAT_SET(x) _mm512_set1_ps(x)
#define FLOAT_ADD(sum, a, b) sum = _mm512_fmadd_ps(a, b, sum)
#define INT_SET(x) _mm512_set1_epi32(x)
#define FLOAT_PRODUCTS 16
#if defined(__AVX512VNNI__)
#define INT_ADD(sum, a, b) sum = _mm512_dpbusd_epi32(sum, a, b)
#define INT_PRODUCTS 64
#else
#define INT_ADD(sum, a, b) sum = _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
#define INT_PRODUCTS 32
#endif
#else
#undef KEEP
#define KEEP(value) __asm__ volatile("" : "+x"(value))
typedef __m256 Floats;
typedef __m256i Ints;
#define FLOAT_SET(x) _mm256_set1_ps(x)
#define FLOAT_ADD(sum, a, b) sum = _mm256_fmadd_ps(a, b, sum)
#define INT_SET(x) _mm256_set1_epi32(x)
#define INT_ADD(sum, a, b) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define FLOAT_PRODUCTS 8
#define INT_PRODUCTS 16
#endif
#else
#include <arm_neon.h>
#define KEEP(value) __asm__ volatile("" : "+w"(value))
typedef float32x4_t Floats;
#define FLOAT_SET(x) vdupq_n_f32(x)
#define FLOAT_ADD(sum, a, b) sum = vfmaq_f32(sum, a, b)
#define FLOAT_PRODUCTS 4
typedef int32x4_t Ints;
#define INT_SET(x) vdupq_n_s32(x)
#define INT_PRODUCTS 16
#define BYTES(x) vreinterpretq_s8_s32(x)
#if defined(__ARM_FEATURE_DOTPROD)
#define INT_ADD(sum, a, b) sum = vdotq_s32(sum, BYTES(a), BYTES(b))
#else
#define INT_ADD(sum, a, b)                                                                  \
    sum = vpadalq_s16(sum, vmlal_s8(vmull_s8(vget_low_s8(BYTES(a)), vget_low_s8(BYTES(b))), \
                                    vget_high_s8(BYTES(a)), vget_high_s8(BYTES(b))))
#endif
#endif

#define FLOAT_DECLARE(i) Floats sum##i = FLOAT_SET(0);
#define FLOAT_STEP(i)        \
    KEEP(a);                 \
    FLOAT_ADD(sum##i, a, b); \
    KEEP(sum##i);
#define INT_DECLARE(i) Ints sum##i = INT_SET(0);
#define INT_STEP(i)        \
    KEEP(a);               \
    INT_ADD(sum##i, a, b); \
    KEEP(sum##i);

// Multiply-adds a second. The empty statements keep the compiler from doing a product once, or none.
#define PEAK(NAME, TYPE, KIND)                                                \
    double NAME(void) {                                                       \
        TYPE a = KIND##_SET(1), b = KIND##_SET(1);                            \
        EACH(KIND##_DECLARE)                                                  \
        const double start = seconds();                                       \
        for (int round = 0; round < ROUNDS; ++round) {                        \
            EACH(KIND##_STEP)                                                 \
        }                                                                     \
        return (double)ROUNDS * SUMS * KIND##_PRODUCTS / (seconds() - start); \
    }

PEAK(peak_float32, Floats, FLOAT)
PEAK(peak_int8, Ints, INT)
