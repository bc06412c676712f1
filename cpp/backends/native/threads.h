// A few threads that share a frame's work and sleep between frames.
#pragma once

#include <sys/types.h>

#include <memory>

namespace edgeface::native {

class ThreadPool {
  public:
    // Part `part` of phase `phase`, on thread `rank`.
    using Work = void (*)(void* context, int phase, int part, int rank);

    // At least one thread, the caller's own; std::invalid_argument otherwise.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }

    // Does every phase in size() parts, on whichever threads are there to take them: one that wakes late, or
    // that the system gave no CPU, holds nobody up. A phase begins when all of the one before is done. The
    // caller is rank 0.
    void run(int phases, Work work, void* context);

  private:
    struct Crew;
    static std::unique_ptr<Crew> hired(int size);
    void abandon_after_fork();

    int size_;
    std::unique_ptr<Crew> crew_;  // made on first use; none for one thread
    pid_t owner_ = 0;             // the process that `crew_` lives in
};

}  // namespace edgeface::native
