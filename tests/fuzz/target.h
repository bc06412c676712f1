// What every target in C++ has: the fuzzer's bytes as values, a check that ends the program, and a main() for
// compilers without libFuzzer, compiled with -DEDGEFACE_STANDALONE.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace edgeface::fuzz {

inline void expect(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "not so: %s\n", what);
    std::abort();
}

// The fuzzer's bytes as values; zeros once they are used up.
class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size)
        : data_(data),
          left_(size) {}

    bool empty() const { return left_ == 0; }

    std::uint8_t byte() {
        if (left_ == 0) return 0;
        --left_;
        return *data_++;
    }

    std::uint32_t word() {
        std::uint32_t value = 0;
        for (int i = 0; i < 4; ++i) value = value << 8 | byte();
        return value;
    }

    int from(int low, int high) {
        return low + static_cast<int>(word() % (static_cast<std::uint32_t>(high - low) + 1));
    }

    bool flag() { return (byte() & 1) != 0; }

    template <typename T>
    T one_of(std::initializer_list<T> values) {
        return values.begin()[byte() % values.size()];
    }

    // Any at all: NaN, infinite, denormal, and often enough one that a network would give.
    float any() {
        using Limits = std::numeric_limits<float>;
        const std::uint8_t kind = byte();
        switch (kind % 16) {
            case 0:
                return Limits::quiet_NaN();
            case 1:
                return Limits::infinity();
            case 2:
                return -Limits::infinity();
            case 3:
                return Limits::denorm_min();
            case 4:
                return Limits::max();
            case 5:
                return Limits::lowest();
            case 6: {
                const std::uint32_t bits = word();
                float value;
                std::memcpy(&value, &bits, sizeof value);
                return value;
            }
            case 7:
                return -0.0F;
            default:
                return static_cast<float>(static_cast<std::int8_t>(byte())) /
                       (kind % 2 == 0 ? 16.0F : 128.0F);
        }
    }

    float finite() {
        const float value = any();
        return std::isfinite(value) ? value : 1.0F;
    }

    float positive() {
        const float value = std::fabs(finite());
        return value > 0 ? value : 1.0F;
    }

    // 0 to 1.
    float share() { return static_cast<float>(byte()) / 255.0F; }

  private:
    const std::uint8_t* data_;
    std::size_t left_;
};

}  // namespace edgeface::fuzz

#ifdef EDGEFACE_STANDALONE
// RUNS [SEED [anything]]: that many inputs of random bytes. With a third argument every seed is printed
// first.
int main(int argc, char** argv) {
    const unsigned long runs = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 100000;
    const unsigned long first = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
    for (unsigned long seed = first; seed < first + runs; ++seed) {
        std::mt19937_64 random(seed);
        std::vector<std::uint8_t> data(random() % 2048);
        for (std::uint8_t& byte : data) byte = static_cast<std::uint8_t>(random());
        if (argc > 3) std::fprintf(stderr, "seed %lu\n", seed);
        LLVMFuzzerTestOneInput(data.data(), data.size());
    }
    std::printf("%lu inputs, nothing found\n", runs);
    return 0;
}
#endif
