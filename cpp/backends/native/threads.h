// A few threads that walk through a frame's steps together and sleep between frames.
#pragma once

#include <sys/types.h>

#include <memory>

namespace edgeface::native {

class ThreadPool {
  public:
    // At least one thread, the caller's own; std::invalid_argument otherwise.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }

    // Calls work(context, rank) once on every thread, the caller being rank 0; returns when all are done.
    void run(void (*work)(void*, int), void* context);

    // Inside run(): waits until every thread has come here.
    void wait_for_all();

  private:
    struct Crew;
    static std::unique_ptr<Crew> hired(int size);
    void abandon_after_fork();

    int size_;
    std::unique_ptr<Crew> crew_;  // made on first use; none for one thread
    pid_t owner_ = 0;             // the process that `crew_` lives in
};

}  // namespace edgeface::native
