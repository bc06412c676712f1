#include "threads.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "../../error.h"

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

// Where `size` threads meet, again and again.
class Barrier {
  public:
    explicit Barrier(int size)
        : size_(size) {}

    void wait() {
        const unsigned phase = phase_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) return release(phase);
        for (int spin = 0; spin < kSpins; ++spin) {
            if (phase_.load(std::memory_order_acquire) != phase) return;
            pause();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return phase_.load(std::memory_order_acquire) != phase; });
    }

  private:
    void release(unsigned phase) {
        arrived_.store(0, std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            phase_.store(phase + 1, std::memory_order_release);
        }
        changed_.notify_all();
    }

    int size_;
    std::atomic<int> arrived_{0};
    std::atomic<unsigned> phase_{0};
    std::mutex mutex_;
    std::condition_variable changed_;
};

}  // namespace

// The threads beside the caller's, and all that they share.
struct ThreadPool::Crew {
    explicit Crew(int size)
        : barrier(size) {}

    // Apart from the constructor, so that the destructor sends home those who came when one fails to.
    void hire(int size) {
        for (int rank = 1; rank < size; ++rank) threads.emplace_back(&Crew::loop, this, rank);
    }

    ~Crew() {
        {
            const std::lock_guard<std::mutex> lock(mutex);
            stop = true;
        }
        wake.notify_all();
        for (std::thread& thread : threads) thread.join();
    }

    void start(void (*new_work)(void*, int), void* new_context) {
        {
            const std::lock_guard<std::mutex> lock(mutex);
            work = new_work;
            context = new_context;
            ++generation;
        }
        wake.notify_all();
    }

    void loop(int rank) {
        unsigned seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return stop || generation != seen; });
                if (stop) return;
                seen = generation;
            }
            work(context, rank);
            barrier.wait();
        }
    }

    Barrier barrier;
    std::mutex mutex;
    std::condition_variable wake;
    unsigned generation = 0;
    bool stop = false;
    void (*work)(void*, int) = nullptr;
    void* context = nullptr;
    std::vector<std::thread> threads;
};

std::unique_ptr<ThreadPool::Crew> ThreadPool::hired(int size) {
    auto crew = std::make_unique<Crew>(size);
    try {
        crew->hire(size);
    } catch (const std::system_error& error) {
        throw BackendError("cannot start " + std::to_string(size) + " threads: " + error.what());
    }
    return crew;
}

ThreadPool::ThreadPool(int threads)
    : size_(threads) {
    if (threads < 1)
        throw std::invalid_argument("num_threads is " + std::to_string(threads) + "; it starts at 1");
}

ThreadPool::~ThreadPool() { abandon_after_fork(); }

// Threads do not survive fork(), and the locks that they slept on are in no usable state in the child: there
// the crew is left lying, and another one made on first use.
void ThreadPool::abandon_after_fork() {
    if (crew_ != nullptr && owner_ != getpid()) static_cast<void>(crew_.release());
}

void ThreadPool::run(void (*work)(void*, int), void* context) {
    if (size_ > 1) {
        abandon_after_fork();
        if (crew_ == nullptr) {
            crew_ = hired(size_);
            owner_ = getpid();
        }
        crew_->start(work, context);
    }
    work(context, 0);
    wait_for_all();
}

void ThreadPool::wait_for_all() {
    if (size_ > 1) crew_->barrier.wait();
}

}  // namespace edgeface::native
