#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
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

// A phase of these networks takes tens of microseconds; waking a sleeping thread takes as long. So wait about
// that long awake, then sleep: a thread that shares its core with somebody else's work must not burn it.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

// What there is to do: how many parts of which turn nobody has taken yet. A turn is a phase of a run; they
// are counted on from run to run, so that a thread which slept through one never takes its value for today's.
class Offer {
  public:
    static constexpr int kMaxParts = 0xFFFF;

    Offer() = default;
    Offer(std::uint64_t turn, int parts)
        : bits_(turn << 16 | static_cast<std::uint64_t>(parts)) {}
    explicit Offer(std::uint64_t bits)
        : bits_(bits) {}

    std::uint64_t bits() const { return bits_; }
    std::uint64_t turn() const { return bits_ >> 16; }
    int parts() const { return static_cast<int>(bits_ & kMaxParts); }
    Offer without_one() const { return Offer(bits_ - 1); }

  private:
    std::uint64_t bits_ = 0;
};

// The offer of the moment, which threads watch: awake for a while, then asleep.
class Board {
  public:
    Offer read() const { return Offer(bits_.load(std::memory_order_acquire)); }

    // Whether a part of the offer was still there.
    bool take(Offer offer) {
        std::uint64_t expected = offer.bits();
        return offer.parts() > 0 &&
               bits_.compare_exchange_strong(expected, offer.without_one().bits(), std::memory_order_acq_rel);
    }

    void publish(Offer offer) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            bits_.store(offer.bits(), std::memory_order_release);
        }
        changed_.notify_all();
    }

    void close() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            is_closed_.store(true, std::memory_order_release);
        }
        changed_.notify_all();
    }

    bool is_closed() const { return is_closed_.load(std::memory_order_acquire); }

    void wait_for_another(Offer offer) {
        const auto is_over = [&] { return read().bits() != offer.bits() || is_closed(); };
        for (int spin = 0; spin < kSpins; ++spin) {
            if (is_over()) return;
            pause();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, is_over);
    }

  private:
    std::atomic<std::uint64_t> bits_{0};
    std::atomic<bool> is_closed_{false};
    std::mutex mutex_;
    std::condition_variable changed_;
};

}  // namespace

// The threads beside the caller's, and all that they share.
struct ThreadPool::Crew {
    explicit Crew(int size)
        : size_(size) {}

    // Apart from the constructor, so that the destructor sends home those who came when one fails to.
    void hire() {
        for (int rank = 1; rank < size_; ++rank) threads_.emplace_back(&Crew::loop, this, rank);
    }

    ~Crew() {
        board_.close();
        for (std::thread& thread : threads_) thread.join();
    }

    void run(int phases, Work work, void* context) {
        // Nobody holds a part, and only who takes one reads these.
        work_ = work;
        context_ = context;
        first_turn_ = board_.read().turn();
        end_turn_ = first_turn_ + static_cast<std::uint64_t>(phases);
        const std::uint64_t end = end_turn_;
        leave_callers_cpu();
        board_.publish(Offer(first_turn_, size_));
        for (Offer offer = board_.read(); offer.turn() != end; offer = board_.read()) help(offer, 0);
    }

  private:
    void loop(int rank) {
        while (!board_.is_closed()) help(board_.read(), rank);
    }

    // Linux wakes a thread on the CPU of the one that wakes it, though another is idle, and takes
    // milliseconds to move it: after a pause of 30 ms, the first eight frames of RFB-320 took as long as on
    // one thread. So the others are kept off the caller's CPU; that costs microseconds, when it has changed.
    void leave_callers_cpu() {
#if defined(__linux__)
        const int cpu = sched_getcpu();
        if (cpu < 0 || cpu == callers_cpu_) return;
        callers_cpu_ = cpu;
        cpu_set_t allowed;
        if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < 2) return;
        CPU_CLR(cpu, &allowed);
        // Where it is refused, they are only slower.
        for (std::thread& thread : threads_) {
            pthread_setaffinity_np(thread.native_handle(), sizeof(allowed), &allowed);
        }
#endif
    }

    // Does a part of the offer, or waits for another one.
    void help(Offer offer, int rank) {
        if (!board_.take(offer)) {
            if (offer.parts() == 0) board_.wait_for_another(offer);
            return;
        }
        work_(context_, static_cast<int>(offer.turn() - first_turn_), size_ - offer.parts(), rank);
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) return;
        done_.store(0, std::memory_order_relaxed);
        const std::uint64_t next = offer.turn() + 1;
        board_.publish(Offer(next, next == end_turn_ ? 0 : size_));
    }

    int size_;
    Board board_;
    std::atomic<int> done_{0};  // parts of the present turn
    Work work_ = nullptr;
    void* context_ = nullptr;
    std::uint64_t first_turn_ = 0;
    std::uint64_t end_turn_ = 0;
    int callers_cpu_ = -1;  // that the threads were kept off last
    std::vector<std::thread> threads_;
};

std::unique_ptr<ThreadPool::Crew> ThreadPool::hired(int size) {
    auto crew = std::make_unique<Crew>(size);
    try {
        crew->hire();
    } catch (const std::system_error& error) {
        throw BackendError("cannot start " + std::to_string(size) + " threads: " + error.what());
    }
    return crew;
}

ThreadPool::ThreadPool(int threads)
    : size_(threads) {
    if (threads < 1 || threads > Offer::kMaxParts) {
        throw std::invalid_argument("num_threads is " + std::to_string(threads) + "; expected 1 to " +
                                    std::to_string(Offer::kMaxParts));
    }
}

ThreadPool::~ThreadPool() { abandon_after_fork(); }

// Threads do not survive fork(), and the locks that they slept on are in no usable state in the child: there
// the crew is left lying, and another one made on first use.
void ThreadPool::abandon_after_fork() {
    if (crew_ != nullptr && owner_ != getpid()) static_cast<void>(crew_.release());
}

void ThreadPool::run(int phases, Work work, void* context) {
    if (size_ == 1 || phases == 0) {
        for (int phase = 0; phase < phases; ++phase) work(context, phase, 0, 0);
        return;
    }
    abandon_after_fork();
    if (crew_ == nullptr) {
        crew_ = hired(size_);
        owner_ = getpid();
    }
    crew_->run(phases, work, context);
}

}  // namespace edgeface::native
