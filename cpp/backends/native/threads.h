// A few threads that walk through a frame's steps together and sleep between frames.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace edgeface::native {

class ThreadPool {
  public:
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
    void start();
    void loop(int rank, unsigned seen);

    int size_;
    // Threads do not survive fork(): a child starts its own, on first use.
    pid_t owner_ = 0;
    std::vector<std::thread> threads_;

    std::mutex mutex_;
    std::condition_variable wake_;
    unsigned generation_ = 0;
    bool stop_ = false;
    void (*work_)(void*, int) = nullptr;
    void* context_ = nullptr;

    std::atomic<int> arrived_{0};
    std::atomic<unsigned> phase_{0};
    std::mutex barrier_mutex_;
    std::condition_variable barrier_;
};

}  // namespace edgeface::native
