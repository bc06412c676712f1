#include "cpu.h"

#include "../../error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__arm__) || defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace edgeface::native {
namespace {

#if defined(__x86_64__)

struct X86 {
    bool avx2 = false;
    bool avx512 = false;
    bool avx512vnni = false;
};

// The operating system has to save the registers too, which XCR0 tells.
unsigned long long saved_states() {
    unsigned low = 0;
    unsigned high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<unsigned long long>(high) << 32) | low;
}

// CPUID itself: __builtin_cpu_supports is always false under some compilers (zig 0.17).
X86 detect_x86() {
    constexpr unsigned long long kYmm = 0x06;
    constexpr unsigned long long kZmm = 0xe6;
    X86 cpu;
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0 || (c & bit_FMA) == 0) return cpu;
    const unsigned long long states = saved_states();
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return cpu;
    cpu.avx2 = (states & kYmm) == kYmm && (b & bit_AVX2) != 0;
    cpu.avx512 = cpu.avx2 && (states & kZmm) == kZmm && (b & bit_AVX512F) != 0 && (b & bit_AVX512BW) != 0;
    constexpr unsigned kVnni = 1U << 11;
    cpu.avx512vnni = cpu.avx512 && (c & kVnni) != 0;
    return cpu;
}

#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> kernels;
#if defined(__x86_64__)
    const X86 cpu = detect_x86();
    if (cpu.avx512vnni) kernels.push_back(&avx512vnni_kernels());
    if (cpu.avx512) kernels.push_back(&avx512_kernels());
    if (cpu.avx2) kernels.push_back(&avx2_kernels());
#elif defined(__aarch64__)
    constexpr unsigned long kDotprod = 1UL << 20;  // HWCAP_ASIMDDP
    if ((getauxval(AT_HWCAP) & kDotprod) != 0) kernels.push_back(&neon_dotprod_kernels());
    kernels.push_back(&neon_kernels());
#elif defined(__arm__)
    constexpr unsigned long kNeon = 1UL << 12;   // HWCAP_NEON
    constexpr unsigned long kVfpv4 = 1UL << 16;  // HWCAP_VFPv4: the fused multiply-add
    if ((getauxval(AT_HWCAP) & (kNeon | kVfpv4)) == (kNeon | kVfpv4)) kernels.push_back(&neon_kernels());
#endif
    kernels.push_back(&scalar_kernels());
    return kernels;
}

const Kernels& select_kernels(const std::string& isa) {
    std::string present;
    for (const Kernels* kernels : available_kernels()) {
        if (isa.empty() || isa == kernels->isa) return *kernels;
        present += (present.empty() ? "" : ", ") + std::string(kernels->isa);
    }
    throw BackendError("this CPU has no kernels for '" + isa + "'; it has " + present);
}

}  // namespace edgeface::native
