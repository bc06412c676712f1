#include "threads.h"

#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace edgeface::native {
namespace {

// A step of these networks takes tens of microseconds; waking a sleeping thread takes as long. So wait about
// that long awake, then sleep: a thread that shares its core with somebody else's work must not burn it.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads)
    : size_(threads) {}

ThreadPool::~ThreadPool() {
    if (owner_ != getpid()) {
        // The threads stayed in the parent process; their handles must not be joined here.
        for (std::thread& thread : threads_) thread.detach();
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::start() {
    for (std::thread& thread : threads_) thread.detach();
    threads_.clear();
    owner_ = getpid();
    for (int rank = 1; rank < size_; ++rank)
        threads_.emplace_back(&ThreadPool::loop, this, rank, generation_);
}

void ThreadPool::run(void (*work)(void*, int), void* context) {
    if (size_ > 1) {
        if (owner_ != getpid()) start();
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            work_ = work;
            context_ = context;
            ++generation_;
        }
        wake_.notify_all();
    }
    work(context, 0);
    wait_for_all();
}

void ThreadPool::loop(int rank, unsigned seen) {
    for (;;) {
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
            if (stop_) return;
            seen = generation_;
        }
        work_(context_, rank);
        wait_for_all();
    }
}

void ThreadPool::wait_for_all() {
    if (size_ == 1) return;
    const unsigned phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.store(0, std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> lock(barrier_mutex_);
            phase_.store(phase + 1, std::memory_order_release);
        }
        barrier_.notify_all();
        return;
    }
    for (int spin = 0; spin < kSpins; ++spin) {
        if (phase_.load(std::memory_order_acquire) != phase) return;
        pause();
    }
    std::unique_lock<std::mutex> lock(barrier_mutex_);
    barrier_.wait(lock, [&] { return phase_.load(std::memory_order_acquire) != phase; });
}

}  // namespace edgeface::native
